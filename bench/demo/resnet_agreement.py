"""ResNet-18 forward and backward: fastconv's float32 errors against torch's own.

Both sides are held against float64. ReLU and max pool choose, and near a tie rounding may choose
differently: a gradient then jumps, on either side, by far more than rounding. So the float64
network of each side repeats that side's choices (its ReLU's signs, its max pool's winners) and what
is left is the error of the arithmetic.
"""

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

import fastconv

from ..models.resnet import ResNet18
from ..report.console import plain_table

BATCH = 2


@dataclass(frozen=True)
class Agreement:
    """The largest errors of one tensor, over its largest exact value."""

    name: str
    torch_error: float
    error: float

    @property
    def bound(self):
        """Twice torch's own error, and half a unit in the last place where that is 0."""
        return 2 * self.torch_error + torch.finfo(torch.float32).eps / 2

    @property
    def holds(self):
        return self.error <= self.bound  # false for NaN


def _max_pool_choices(pool, x):
    """For every output of a max pool, the flat index of its winner in the H x W plane of x."""
    return F.max_pool2d(x, pool.kernel_size, pool.stride, pool.padding, return_indices=True)[1]


def _record_choices(model):
    """Hooks a model so that it writes down what its ReLUs and max pools choose, in order."""
    choices = []

    def note_signs(module, inputs, y):
        choices.append(y.detach() > 0)

    def note_winners(module, inputs, y):
        choices.append(_max_pool_choices(module, inputs[0].detach()))

    _hook(model, note_signs, note_winners)
    return choices


def _repeat_choices(model, choices):
    """Hooks a model so that its ReLUs and max pools choose as written down."""
    remaining = iter(choices)

    def repeat_signs(module, inputs, y):
        return inputs[0] * next(remaining)

    def repeat_winners(module, inputs, y):
        winners = next(remaining)
        return inputs[0].flatten(2).gather(2, winners.flatten(2)).view_as(winners)

    _hook(model, repeat_signs, repeat_winners)


def _hook(model, on_relu, on_max_pool):
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # the hooks need its input as it was
            module.register_forward_hook(on_relu)
        elif isinstance(module, nn.MaxPool2d):
            module.register_forward_hook(on_max_pool)


def _run(model, x, labels):
    """{name: tensor} of the output and of the gradients of x and of every parameter."""
    x = x.clone().requires_grad_()
    output = model(x)
    F.cross_entropy(output, labels).backward()
    gradients = {f"d {name}": parameter.grad for name, parameter in model.named_parameters()}
    return {"output": output.detach(), "d input": x.grad} | gradients


def _errors(model, exact_model, x, labels):
    """{name: error} of a float32 model against the float64 model that repeats its choices."""
    choices = _record_choices(model)
    results = _run(model, x, labels)
    _repeat_choices(exact_model, choices)
    exact = _run(exact_model, x.double(), labels)
    return {
        name: ((results[name].double() - exact[name]).abs().max() / exact[name].abs().max()).item()
        for name in exact
    }


def compare_resnet(seed, image_size, channels_last=False):
    """Agreements of output and all gradients, in training mode, for random images.

    Args:
        image_size: height and width in pixels.
        channels_last: the memory format of images and weights.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    torch.manual_seed(seed)
    model = ResNet18().to(memory_format=layout)
    x = torch.randn(BATCH, 3, image_size, image_size).contiguous(memory_format=layout)
    labels = torch.randint(1000, (BATCH,))
    converted = fastconv.convert(copy.deepcopy(model))
    exact = [copy.deepcopy(model).double() for _ in range(2)]
    errors = _errors(converted, exact[0], x, labels)
    torch_errors = _errors(model, exact[1], x, labels)
    return [Agreement(name, torch_errors[name], errors[name]) for name in errors]


def report_resnet(console, agreements, title, worst=8):
    """Prints the tensors that come closest to their bounds; returns whether all bounds hold."""
    agreements = sorted(
        agreements, key=lambda one: (one.holds, -one.error / one.bound if one.holds else 0.0)
    )
    table = plain_table(title)
    table.add_column("tensor", overflow="fold")
    for name in ("torch's error", "fastconv's", "bound"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for one in agreements[:worst]:
        table.add_row(
            one.name,
            *(f"{value:.1e}" for value in (one.torch_error, one.error, one.bound)),
            "" if one.holds else "[red]TOO LARGE[/]",
        )
    console.print(table)
    held = sum(one.holds for one in agreements)
    console.print(f"{held} of {len(agreements)} tensors within twice torch's own error\n")
    return held == len(agreements)
