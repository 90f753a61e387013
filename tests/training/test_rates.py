"""Learning rates against torch's schedulers, and where they must start and end."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pdp_export.recipe import TrainingSection
from pdp_export.training.rates import learning_rate


def _ours(steps: int, **settings: object) -> list[float]:
    section = TrainingSection.model_validate(settings)
    return [learning_rate(section, 0.3, step, steps) for step in range(steps)]


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10, 97])
def test_one_cycle_is_torchs(steps: int):
    """Pins a one-cycle schedule that is off by one step or ends above torch's last rate."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=steps, cycle_momentum=False)
    theirs = []
    for _ in range(steps):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(theirs) < steps:
            scheduler.step()
    assert _ours(steps, lr_schedule="one_cycle") == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("steps", [1, 7, 50])
def test_cosine_is_torchs(steps: int):
    """Pins a cosine that does not fall to 0 over exactly the run."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    theirs = []
    for _ in range(steps):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert _ours(steps, lr_schedule="cosine") == pytest.approx(theirs)


@given(
    steps=st.integers(1, 300),
    warmup=st.floats(0, 0.99),
    schedule=st.sampled_from(["cosine", "constant"]),
)
def test_a_warmup_rises_evenly_to_the_highest_rate_and_never_trains_at_zero(steps: int, warmup: float, schedule: str):
    """Pins a first step with rate 0, a jump at the end of the warm-up, or a rate above the highest."""
    rates = _ours(steps, lr_schedule=schedule, lr_warmup=warmup)
    rising = math.ceil(warmup * steps)
    assert all(0 < rate <= 0.3 + 1e-12 for rate in rates)
    assert rates[:rising] == sorted(rates[:rising])
    if rising > 1:
        differences = [after - before for before, after in itertools.pairwise(rates[: rising - 1])]
        assert differences == pytest.approx([rates[0]] * len(differences))
    if rising < steps:
        assert rates[rising] >= 0.3 * (0.99 if schedule == "constant" else 0.5 * (1 + math.cos(math.pi / 2)))
    if schedule == "constant":
        assert rates[rising:] == [0.3] * (steps - rising)


def test_one_cycle_with_another_warmup_is_refused():
    """Pins a key that is silently without effect."""
    with pytest.raises(ValidationError, match=r"lr_warmup 0\.1 does not go with one_cycle"):
        TrainingSection(lr_schedule="one_cycle", lr_warmup=0.1)
