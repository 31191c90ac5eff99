"""What spares runs of `fastconv bench` the time that no test is about."""

import pytest


@pytest.fixture
def ceilings(monkeypatch):
    """Made-up ceilings: to measure them would take longer than the lines do. malloc stays as it
    is."""
    # Here and not above: tests/conftest.py first decides which CUDA module fastconv has.
    from fastconv.bench import run
    from fastconv.bench.measure.ceilings import Ceilings

    made_up = Ceilings(copy_gbs=10.0, fp32_tflops=0.1)
    monkeypatch.setattr(run, "keep_pages", lambda: True)
    monkeypatch.setattr(Ceilings, "measured", lambda device, dtypes: made_up)
    return made_up
