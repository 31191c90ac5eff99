"""What fastconv says unasked: that a call goes to ATen, that a variable changes nothing, and whose
layer is printed."""

import logging
import os
import subprocess
import sys
import warnings

import pytest
import torch
import torch.nn as nn

import fastconv
from fastconv import dispatch, variables

X, W = torch.ones(1, 2, 4, 4, dtype=torch.int64), torch.ones(3, 2, 3, 3, dtype=torch.int64)


@pytest.fixture
def told(monkeypatch, recwarn):
    """The warnings of a test, before which no call went to ATen."""
    monkeypatch.setattr(dispatch, "fallbacks", type(dispatch.fallbacks)())
    return recwarn


def test_a_new_reason_is_a_warning_at_the_callers_line(told):
    layer = nn.Sequential(fastconv.MaxPool2d(2))
    for _ in range(3):
        layer(X)
        fastconv.conv2d(X, W)
    (warning,) = told
    assert warning.category is UserWarning and warning.filename == __file__
    assert "max_pool2d" in str(warning.message) and "torch.int64" in str(warning.message)
    fastconv.conv2d(X.int(), W.int())
    assert len(told) == 2 and "torch.int32" in str(told[1].message)


def test_no_warning_while_compiling(told):
    compiled = torch.compile(lambda x: fastconv.max_pool2d(x, 2), fullgraph=True, backend="eager")
    assert torch.equal(compiled(X), X[:, :, :2, :2])
    assert not [w for w in told if "fastconv" in str(w.message)] and not dispatch.fallbacks


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_an_export_is_logged(told, caplog):
    caplog.set_level(logging.INFO, "fastconv")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        torch.jit.trace(lambda x: fastconv.max_pool2d(x, 2), X, check_trace=False)
    (record,) = caplog.records
    assert record.name.split(".")[0] == "fastconv" and "torch.jit.trace" in record.getMessage()


@pytest.mark.parametrize("flag", variables.FLAGS)
def test_a_flag_is_0_or_1(flag, monkeypatch):
    for value, meaning in {"": False, "0": False, "1": True}.items():
        monkeypatch.setenv(flag, value)
        assert variables.is_set(flag) is meaning
    monkeypatch.setenv(flag, "yes")
    for function in (variables.check, lambda: variables.is_set(flag)):
        with pytest.raises(ValueError, match=f"{flag} must be 0 or 1, got 'yes'"):
            function()


def test_an_unknown_variable_has_a_nearest_one(monkeypatch, recwarn):
    for name in variables.KNOWN:
        monkeypatch.setenv(name, "0")
    variables.check()
    assert not len(recwarn)
    monkeypatch.setenv("FASTCONV_STRIKT", "1")
    with pytest.warns(UserWarning, match="FASTCONV_STRIKT is no .* did you mean FASTCONV_STRICT"):
        variables.check()


def test_variables_are_checked_by_the_import(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "import fastconv"],
        cwd=tmp_path,  # the tree's root has a fastconv that may not be compiled
        env={**os.environ, "FASTCONV_AUTOTUNE": "on"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "FASTCONV_AUTOTUNE must be 0 or 1" in done.stderr


def test_print_shows_whose_layer_it_is():
    class Own(fastconv.Conv2d):
        pass

    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.MaxPool2d(2))
    before = str(net)
    converted = fastconv.convert(net)
    assert str(converted) == before.replace("Conv2d", "fastconv.Conv2d").replace(
        "MaxPool2d", "fastconv.MaxPool2d"
    )
    assert str(net) == str(fastconv.unconvert(converted)) == before
    assert "): fastconv.FusedConv2d(" in str(fastconv.fuse(net))
    assert str(Own(1, 1, 1)).startswith("Own(")
