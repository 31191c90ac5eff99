"""Trains the small CNN on scikit-learn's 1,797 handwritten digits: torch's layers, then ours.

It is done in float32, as users do, and in float64, where the comparison is sharp. ReLU and max pool
choose; where two candidates are closer than rounding, two right float32 programs choose differently
and their trainings part a little. In some 50 million choices a few are that close: torch's float32
curve parts from torch's float64 curve, or from torch's without oneDNN, by up to 0.009 at some epoch
(six seeds), and neither is wrong. In float64 hardly ever is a choice that close.
"""

import copy
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import fastconv

from ..models.small_cnn import SmallCNN
from ..report.console import plain_table

TEST_IMAGES = 360
BATCH = 32
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.02, 0.9, 1e-3
MIN_ACCURACY = 0.97
# Largest difference of the mean losses of an epoch, in nats (they start near ln 10 = 2.3). float32:
# three times what torch differs from itself by, see the top. float64: a difference of 1e-16, the
# rounding, was seen to grow to 5e-16; 1e-9 leaves room for other machines and none for wrong taps.
TOLERANCE = {torch.float32: 0.03, torch.float64: 1e-9}


class Verdict(Enum):
    """On two trainings."""

    AGREE = "[green]agree[/]"
    DISAGREE = "[red]DO NOT AGREE[/]"
    TOO_FEW_EPOCHS = "[yellow]agree, but too few epochs to become accurate[/]"


@dataclass
class Training:
    """One finished training."""

    losses: list  # mean cross entropy of each epoch, in nats
    accuracy: float  # on the test images, 0 to 1
    state: dict  # the trained weights


def load_images():
    """(train images, train labels, test images, test labels): 1,437 and 360 images, (N, 1, 8, 8) of
    mean 0 and deviation 1. The split is always the same."""
    digits = load_digits()
    images = torch.tensor(digits.images)[:, None]
    images = (images - images.mean()) / images.std()
    labels = torch.tensor(digits.target)
    train, test = train_test_split(
        range(len(labels)), test_size=TEST_IMAGES, random_state=0, stratify=digits.target
    )
    return images[train], labels[train], images[test], labels[test]


def train(model, images, seed, epochs):
    """Trains the model by SGD with momentum, at a rate that falls to 0 along a cosine, on batches
    in an order that the seed alone decides."""
    x_train, y_train, x_test, y_test = images
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    losses = []
    for _ in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(x_train), generator=order).split(BATCH):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x_train[batch]), y_train[batch])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        schedule.step()
        losses.append(total / len(x_train))
    with torch.no_grad():
        accuracy = (model(x_test).argmax(1) == y_test).double().mean().item()
    return Training(losses, accuracy, model.state_dict())


@contextmanager
def one_thread():
    """On images of 8x8 a second thread gains nothing, and loses much where other programs run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train_both(dtype, seed, epochs):
    """(training with torch's layers, training after fastconv.convert), from the same weights."""
    x_train, y_train, x_test, y_test = load_images()
    images = x_train.to(dtype), y_train, x_test.to(dtype), y_test
    torch.manual_seed(seed)
    model = SmallCNN().to(dtype)
    converted = fastconv.convert(copy.deepcopy(model))
    with one_thread():
        return train(model, images, seed, epochs), train(converted, images, seed, epochs)


def loss_difference(pair):
    """Largest difference of the two curves in nats; NaN where one of them holds a NaN."""
    theirs, ours = (torch.tensor(training.losses, dtype=torch.float64) for training in pair)
    return (theirs - ours).abs().max().item()


def weight_difference(pair):
    """Largest elementwise difference of the trained weights; NaN where one of them is NaN."""
    theirs, ours = (training.state for training in pair)
    return torch.stack([(theirs[name] - ours[name]).abs().max() for name in theirs]).max().item()


def verdict(dtype, pair):
    """AGREE where the loss curves do and both networks have learnt to read; TOO_FEW_EPOCHS where
    neither has, so that the curves say little. NaN is a disagreement."""
    accurate = [training.accuracy >= MIN_ACCURACY for training in pair]
    if not loss_difference(pair) <= TOLERANCE[dtype] or accurate[0] != accurate[1]:
        return Verdict.DISAGREE
    return Verdict.AGREE if all(accurate) else Verdict.TOO_FEW_EPOCHS


def report_training(console, pairs):
    """Prints the trainings' curves side by side and returns the Verdicts.

    Args:
        pairs: dtype -> (torch's Training, fastconv's).
    """
    table = plain_table("Mean loss of each epoch, small CNN on handwritten digits")
    table.add_column("epoch", justify="right")
    for dtype in pairs:
        name = str(dtype).removeprefix("torch.")
        for column in (f"{name} torch", "fastconv", "difference"):
            table.add_column(column, justify="right", no_wrap=True)
    curves = [[training.losses for training in pair] for pair in pairs.values()]
    for epoch in range(len(curves[0][0])):
        cells = [str(epoch + 1)]
        for theirs, ours in curves:
            cells += [f"{theirs[epoch]:.6f}", f"{ours[epoch]:.6f}"]
            cells.append(f"{ours[epoch] - theirs[epoch]:+.0e}")
        table.add_row(*cells)
    console.print(table)
    for dtype, pair in pairs.items():
        console.print(
            f"{str(dtype).removeprefix('torch.')}: test accuracy {pair[0].accuracy:.2%} torch, "
            f"{pair[1].accuracy:.2%} fastconv (at least {MIN_ACCURACY:.0%}); largest difference "
            f"{loss_difference(pair):.1e} of losses (at most {TOLERANCE[dtype]:.0e}), "
            f"{weight_difference(pair):.1e} of weights: {verdict(dtype, pair).value}"
        )
    console.print()
    return [verdict(dtype, pair) for dtype, pair in pairs.items()]
