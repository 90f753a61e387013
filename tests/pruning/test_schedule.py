"""Ratio and temperature over the run, and the names that are refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pdp_export.errors import UsageError
from pdp_export.pruning.methods import preset
from pdp_export.pruning.patterns import NM, Block, Channel, Unstructured, make_pattern
from pdp_export.pruning.schedule import AccuracyRule, Schedule


@given(ramp=st.sampled_from(["cubic", "linear"]), first=st.floats(0, 1), second=st.floats(0, 1))
def test_ratio_never_falls_and_ends_are_exact(ramp, first, second):
    """Nothing may be pruned in warm-up, and the full ratio must be reached, not approached."""
    schedule = Schedule(0.2, 0.8, ramp)
    low, high = sorted((first, second))
    assert schedule.share(low, 0.2) <= schedule.share(high, 0.2)
    assert schedule.share(0.2, 0.2) == 0
    assert schedule.share(0.8, 0.2) == 1


def test_cubic_and_linear_differ_as_published():
    """The cubic ramp prunes most of the ratio early; mixing them up costs one to two points."""
    assert Schedule(0.0, 1.0, "linear").share(0.5, 0.0) == 0.5
    assert Schedule(0.0, 1.0, "cubic").share(0.5, 0.0) == 1 - 0.5**3


def test_default_temperature_anneals_from_soft_to_hard():
    """Kappa must fall from 1 to 1e-3 by 95 % of the run, or hardening changes the function."""
    chosen = preset("default")
    temperature = chosen.method.temperature
    assert (chosen.ramp, chosen.method.clip) == ("cubic", 1.0)
    assert temperature.kappa(0.1, warmup=0.1) == pytest.approx(1.0)
    assert temperature.kappa(0.95, warmup=0.1) == pytest.approx(1e-3)
    assert temperature.kappa(1.0, warmup=0.1) == pytest.approx(1e-3)
    assert float(temperature.tau(torch.tensor(0.25), 0.1)) == pytest.approx(0.025)
    assert float(temperature.tau(torch.tensor(0.0), 0.1)) > 0


def test_paper_preset_is_constant_and_unclipped():
    """The preset `paper` must stay what the paper says, whatever the default becomes."""
    chosen = preset("paper", 1e-4)
    temperature = chosen.method.temperature
    assert (chosen.ramp, chosen.method.clip) == ("linear", None)
    assert temperature.kappa(0.3, 0.1) == pytest.approx(1e-4)
    assert float(temperature.tau(torch.tensor(7.0), 1e-4)) == pytest.approx(1e-4)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_rule_that_is_never_met_still_prunes_in_few_steps(steps):
    """A first step beyond the end of the ramp divided by zero, or never began to prune."""
    schedule = Schedule(AccuracyRule(), ramp_end=0.5)
    start = next(found for n in range(1, steps + 1) if (found := schedule.start(n / steps, 0)) is not None)
    assert start <= schedule.latest
    assert schedule.share(1.0, start) == 1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Schedule(0.8, 0.5), "warmup"),
        (lambda: Schedule(steps=0), "steps"),
        (lambda: Schedule(ramp="square"), "ramp"),
        (lambda: preset("papr", 1e-4), "did you mean 'paper'"),
        (lambda: preset("paper", 0.0), "positive"),
        (lambda: preset("paper", 1e39), "float32"),
        (lambda: Unstructured(90), "fraction"),
        (lambda: Unstructured(0.0), "between 0 and 1"),
        (lambda: Channel(1.0), "between 0 and 1"),
        (lambda: Channel(0.5, ties="fre"), "unknown ties 'fre'"),
        (lambda: Channel(0.5, align=0), "align"),
        (lambda: make_pattern("nm", 0.5, n=4, m=4), "0 < n < m"),
        (lambda: NM(2.0, 4.0), "integers"),
        (lambda: Unstructured("0.5"), "between 0 and 1"),
        (lambda: make_pattern("block", 0.5, block=(1, 1)), "at least two weights"),
        (lambda: AccuracyRule(0.5, 0), "epochs"),
        (lambda: make_pattern("chanel", 0.5), "did you mean 'channel'"),
    ],
)
def test_impossible_requests_are_refused_by_name(build, message):
    """A pattern or value that cannot work must stop with its name before any training."""
    with pytest.raises(UsageError) as caught:
        build()
    import re

    assert re.search(message, str(caught.value))


def test_patterns_are_found_by_the_recipes_name():
    """The recipe's words must reach the right class with all their values."""
    assert make_pattern("unstructured", 0.9) == Unstructured(0.9)
    assert make_pattern("channel", 0.5, align=16, ties="free") == Channel(0.5, "free", 16)
    assert make_pattern("nm", 0.75, n=1, m=4) == NM(1, 4)
    assert make_pattern("block", 0.5, block=(4, 1)) == Block(0.5, 4, 1)
