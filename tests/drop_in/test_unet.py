"""A U-Net, whose way up is transposed convolutions: converted and fused, against torch's layers in
float64."""

import copy

import torch
import torch.nn.functional as F

import fastconv
from fastconv.bench.models.unet import UNet

STEPS = 5  # from the second one on calls are prepared


def network():
    return UNet(num_classes=3, width=4).double()


def test_sizes_are_those_of_the_paper():
    with torch.device("meta"):
        state = UNet().state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    assert shapes["down.4.2.weight"] == (1024, 1024, 3, 3)
    assert [shapes[f"up.{i}.weight"] for i in range(4)] == [
        (2 * K, K, 2, 2) for K in (512, 256, 128, 64)
    ]
    assert shapes["merge.3.0.weight"] == (64, 128, 3, 3)


def test_trains_as_before(strict):
    model = network()
    converted, report = fastconv.convert(copy.deepcopy(model), report=True)
    assert all(layer.converted for layer in report)
    assert [layer.type for layer in report].count("ConvTranspose2d") == 4
    x, target = torch.randn(2, 1, 32, 16).double(), torch.randint(3, (2, 32, 16))
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.1) for net in (converted, model)]
    for _ in range(STEPS):
        results = []
        for net, optimizer in zip((converted, model), optimizers):
            optimizer.zero_grad()
            loss = F.cross_entropy(net(x), target)
            loss.backward()
            optimizer.step()
            results.append((loss, *(p.grad for p in net.parameters()), *net.parameters()))
        torch.testing.assert_close(*results, rtol=1e-9, atol=1e-12)


def test_fused(strict):
    model = network()
    fused, reports = fastconv.fuse(model, report=True)
    taken = {report.name: len(report.fused) for report in reports}
    relus = [
        f"{part}.{i}.{conv}" for part in ("down", "merge") for i in range(4) for conv in (0, 2)
    ]
    relus += ["down.4.0", "down.4.2"]
    assert {name for name, count in taken.items() if count == 1} == set(relus)
    assert {name for name, count in taken.items() if count == 0} == {
        "last",
        *(f"up.{i}" for i in range(4)),  # what follows them is torch.cat
    }
    x = torch.randn(1, 1, 16, 32).double()
    torch.testing.assert_close(fused(x), model.eval()(x), rtol=1e-9, atol=1e-12)
    operators = [row.operator for row in fastconv.explain(fused, x).rows()]
    assert operators.count("conv_transpose2d") == 4
