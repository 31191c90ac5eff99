"""`fastconv demo`: the same training with torch's layers and with fastconv's, then a ResNet-18.

Exit status 0 where losses, accuracies, outputs and gradients agree, 1 where not, 3 where nothing
disagrees, but the trainings were too short to tell.
"""

import torch
from rich.console import Console

from ..measure.measure import no_fallback
from .digits import Verdict, report_training, train_both
from .resnet_agreement import compare_resnet, report_resnet


def run(options):
    """Runs the demo that parsed options ask for and returns the exit status."""
    with no_fallback():  # torch agrees with itself: that would prove nothing
        return _run(options)


def _run(options):
    if options.threads:
        torch.set_num_threads(options.threads)
    console = Console()
    pairs = {
        dtype: train_both(dtype, options.seed, options.epochs)
        for dtype in (torch.float32, torch.float64)
    }
    verdicts = report_training(console, pairs)
    agree = [Verdict.DISAGREE not in verdicts]
    size = options.image_size
    for channels_last in (False, True):
        layout = "NHWC" if channels_last else "NCHW"
        agree.append(
            report_resnet(
                console,
                compare_resnet(options.seed, size, channels_last),
                f"ResNet-18 {size}x{size} {layout}: errors against float64",
            )
        )
    if not all(agree):
        console.print("[red]DISAGREEMENT[/]")
        return 1
    if Verdict.TOO_FEW_EPOCHS in verdicts:
        console.print("[yellow]nothing disagrees, but too few epochs to judge: try more[/]")
        return 3
    console.print("[green]fastconv agrees with torch[/]")
    return 0
