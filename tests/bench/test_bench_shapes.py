"""`fastconv bench --shape`, `--list`, `--json`: problems of a user's own, and what comes out."""

import csv
import json

import pytest
import torch
from torch import nn

import fastconv
from fastconv.__main__ import main
from fastconv.bench.cases.selection import PASSES, select_shapes
from fastconv.bench.cases.shape_text import parse_shape
from fastconv.bench.cases.shapes import AdaptivePool, Layer, Pool

BENCH = ["bench", "--device", "cpu", "--threads", "1", "--seconds", "0.002"]

pytestmark = pytest.mark.usefixtures("ceilings")


@pytest.mark.parametrize(
    ("text", "shape", "op"),
    [
        (
            "n=8,c=64,h=56,w=55,k=32,r=3,s=1,stride=2,pad=0,dilation=1,groups=2",
            Layer("shape", "", 8, 64, 56, 55, 32, 3, 1, 2, 0, 1, 2),
            None,
        ),
        ("C=4, H=9, K=8, R=3", Layer("shape", "", 1, 4, 9, 9, 8, 3, 3, 1, (1, 1), 1, 1), None),
        (
            "c=4,h=9,k=8,r=5,s=3,dilation=1x2,stride=2x1",
            Layer("shape", "", 1, 4, 9, 9, 8, 5, 3, (2, 1), (2, 2), (1, 2), 1),
            None,
        ),
        (
            "op=conv2d+bias+relu,c=4,h=9,k=8,r=1,pad=0",
            Layer("shape", "", 1, 4, 9, 9, 8, 1, 1, 1, 0, 1, 1),
            "conv2d+bias+relu",
        ),
        (
            "op=conv_transpose2d,c=4,h=9,k=2,r=2,stride=2",
            Layer("shape", "", 1, 4, 9, 9, 2, 2, 2, 2, (0, 0), 1, 1, True),
            "conv_transpose2d",
        ),
        (
            "c=4,h=1,w=99,k=8,r=1,s=2,dilation=1x8",
            Layer("shape", "", 1, 4, 1, 99, 8, 1, 2, 1, (0, 4), (1, 8), 1),
            None,
        ),
        (
            "op=max_pool2d,c=4,h=9,r=3,s=2,dilation=2x1",
            Pool("shape", "", "max", 1, 4, 9, 9, 3, (3, 2), 0, 2, (2, 1)),
            "max_pool2d",
        ),
        (
            "op=adaptive_max_pool2d,c=4,h=9,p=2",
            AdaptivePool("shape", "", "gmp", 1, 4, 9, 9, 2, 2),
            "adaptive_max_pool2d",
        ),
    ],
)
def test_a_shape_is_read_with_its_defaults(text, shape, op):
    assert parse_shape(text) == (shape, op)


@pytest.mark.parametrize(
    ("module", "op"),
    [
        (nn.Conv2d(4, 8, (3, 2), (2, 1), (1, 0), (1, 2), groups=2), None),
        (nn.Conv2d(4, 8, 3, padding=1), None),
        (nn.MaxPool2d((3, 2), (2, 1), 1, (1, 2)), "max_pool2d"),
        (nn.AvgPool2d(2), "avg_pool2d"),
        (nn.AdaptiveAvgPool2d((3, 2)), "adaptive_avg_pool2d"),
    ],
)
def test_what_explain_prints_is_read_and_printed_alike(module, op):
    table = str(fastconv.explain(nn.Sequential(fastconv.convert(module)), torch.ones(2, 4, 9, 8)))
    (line,) = [line for line in table.splitlines() if line.startswith("0 ")]
    problem = line.split("  ", 1)[1].strip().split("  ")[0]
    shape, found = parse_shape(problem)
    assert found == op
    assert problem == (f"{op} {shape.problem}" if op else shape.problem)
    assert tuple(module(torch.ones(2, 4, 9, 8)).shape) == shape.out_size()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello", "expected key=value, got 'hello'"),
        ("c=3,h=4,k=4,r=3,z=1", "the key 'z'"),
        ("c=3,c=4", "c is given twice"),
        ("c=3,h=4", "needs k, r"),
        ("c=3,h=4,k=4,r=x", "r: expected a whole number, got 'x'"),
        ("c=3,h=4,k=4,r=3x3", "r: expected a whole number, got '3x3'"),
        ("c=3,h=4,k=4,r=3,stride=0", "stride: expected 1 or more"),
        ("c=3,h=4,k=4,r=9,pad=0", "is empty"),
        ("c=3,h=4,k=4,r=3,groups=2", "multiples of groups"),
        ("op=conv_transpose2d,c=3,h=4,k=4,r=3,groups=2", "multiples of groups"),
        ("op=conv_transpose2d,c=3,h=1,k=4,r=1,pad=1", "is empty"),
        ("op=pool,c=3,h=4,r=2", "op: got 'pool'"),
        ("op=avg_pool2d,c=3,h=4,r=2,k=3", "avg_pool2d has no k"),
        ("op=avg_pool2d,c=3,h=4,r=2,dilation=2", "dilation: avg_pool2d has none"),
        ("op=max_pool2d,c=3,h=9,r=3,pad=2", "half"),
    ],
)
def test_a_wrong_shape_is_named(text, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*BENCH, "--shape", text])
    assert stopped.value.code == 2
    assert "argument --shape: " in (err := capsys.readouterr().err) and message in err


def test_a_shape_has_the_lines_of_a_layer_or_of_its_operator():
    def lines(*texts):
        cases = select_shapes(map(parse_shape, texts), ["nchw"], PASSES, ["float32"])
        return [(case.op, case.pass_) for case in cases]

    conv, pool = "c=4,h=9,k=8,r=3", "c=4,h=9,r=3"
    assert lines(conv) == [
        *(("conv2d", name) for name in ("fprop", "dgrad", "wgrad")),
        ("conv2d+bias+relu", "fprop"),
    ]
    assert lines(f"op=conv2d+bias+gelu,{conv}") == [("conv2d+bias+gelu", "fprop")]
    assert lines(f"op=conv_transpose2d,{conv}") == [
        ("conv_transpose2d", name) for name in ("fprop", "dgrad", "wgrad")
    ]
    assert lines(f"op=avg_pool2d,{pool}", f"op=max_pool2d+indices,{pool}") == [
        ("avg_pool2d", "fwd"),
        ("avg_pool2d", "bwd"),
        ("max_pool2d+indices", "fwd"),
    ]


def test_shapes_are_measured_and_their_rows_are_json(tmp_path, capsys):
    """Axes that differ, in every function; the second run finds the rows of the first."""
    arguments = [*BENCH, "--layout", "NHWC", "--dtype", "FP32", "--out", str(tmp_path)]
    for text in (
        "c=4,h=9,w=7,k=8,r=3,s=2,stride=2x1,pad=1x0,dilation=1x2,groups=2",
        "op=conv_transpose2d,c=4,h=9,w=7,k=8,r=3,s=2,stride=2x1,pad=1x0,dilation=1x2,groups=2",
        "op=max_pool2d,c=4,h=9,w=7,r=3,s=2,stride=2x1,pad=1x0,dilation=1x2",
        "op=avg_pool2d,c=4,h=9,w=7,r=3,s=2,stride=2x1,pad=1x0",
        "op=adaptive_avg_pool2d,c=4,h=9,w=7,p=4,q=3",
        "op=adaptive_max_pool2d,c=4,h=9,w=7,p=4,q=3",
    ):
        arguments += ["--shape", text]
    assert main([*arguments, "--json", str(tmp_path / "rows.json")]) == 0, capsys.readouterr().out
    assert f"results: {tmp_path}" in capsys.readouterr().out
    found = json.loads((tmp_path / "rows.json").read_text())
    with open(tmp_path / "shapes.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    text = lambda value: "" if value is None else str(value)  # noqa: E731
    assert [{name: text(value) for name, value in row.items()} for row in found["rows"]] == lines
    assert {row["layout"] for row in lines} == {"channels_last"} and len(lines) == 4 + 3 + 4 * 2
    assert {row["status"] for row in lines} == {"ok"}
    command = found["environment"]["command"]
    assert command.startswith("fastconv bench") and found["environment"]["torch"]
    again = [*arguments, "--disturbed-limit", "99", "--json", "-"]
    assert main(again) == 0
    out, err = capsys.readouterr()
    again = json.loads(out)
    assert len(again["rows"]) == len(lines) and "results: " in err
    assert {row["command"] for row in again["rows"]} <= {
        command,
        again["environment"]["command"],
    }
    assert again["rows"][0]["ceiling_copy_gbs"] == 10.0


def test_a_list_measures_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*BENCH, "--list", "--filter", "resnet18 l4.ds1x1s2", "--layout", "nchw"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()[:-1]
    assert len(lines) == 8 and "layers: resnet18 l4.ds1x1s2 dense 1x1 conv2d fprop" in lines[0]
    assert lines[0].endswith("n1c256h14k512r1s2p0, threads: 1, against torch")
    assert last.startswith("8 lines, at least 0 s of measuring")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--filter", "no such layer"], "no line fits --filter\n"),
        (["layers", "--passes", "bwd"], "no line fits --passes\n"),
        (["--quick", "--filter", "none", "--passes", "fwd"], "--filter and --passes and --quick"),
        (["--shape", "c=4,h=9,k=8,r=3", "--batch", "2"], "--batch: "),
        (["--json", "/no/such/folder/rows.json"], "--json: there is no folder /no/such/folder\n"),
    ],
)
def test_a_refusal_names_what_was_given(arguments, message, tmp_path, capsys):
    assert main([*BENCH, "--out", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err and not any(tmp_path.iterdir())
