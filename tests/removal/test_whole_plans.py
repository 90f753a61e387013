"""Between whole plans the times of whole networks decide, once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn

from pdp_export.removal import remove_channels
from pdp_export.removal.costs import CostModel, Macs, Never
from pdp_export.removal.proof import LIMIT
from pdp_export.removal.whole_plans import MARGIN, Networks
from tests.removal.test_narrowing import Stream

X = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
COSTS: dict[str, CostModel] = {"never": Never(), "never again": Never(), "always": Macs()}


class Clock:
    """A judge that counts what it is asked, and reads its times from a table."""

    def __init__(self, **times: float) -> None:
        self.times, self.memory, self.widths = times, dict[str, Mapping[str, float]](), list[int]()

    def known(self, key: str, names: Sequence[str]) -> Mapping[str, float] | None:
        assert list(names) == list(COSTS)
        return self.memory.get(key)

    def timed(self, networks: Networks) -> Mapping[str, float]:
        assert list(networks) == list(self.times)
        made = [make() for make in networks.values()]
        self.widths += [network.module.state_dict()["a.weight"].shape[1] for network in made]
        assert all(network.program().state_dict["a.weight"].dtype is torch.float32 for network in made)
        return self.times

    def remember(self, key: str, times: Mapping[str, float]) -> None:
        self.memory[key] = times


def stream(dead: int) -> Stream:
    model = Stream(width=16)
    model.a.weight.data[:, :dead] = 0
    return model


@pytest.mark.parametrize(
    ("always", "chosen", "width"), [(1 - 2 * MARGIN, "always", 4), (1 - MARGIN / 2, "never", 16), (2.0, "never", 16)]
)
def test_fastest_whole_plan_is_carried_out(always: float, chosen: str, width: int) -> None:
    """The sum of layer times said otherwise; a difference within the noise is no reason to change."""
    clock = Clock(never=1.0, always=always)
    result = remove_channels(stream(12), (X,), costs=COSTS, judge=clock)
    assert clock.widths == [16, 4]
    assert result.program.state_dict["a.weight"].shape[1] == width
    assert result.report.plan == chosen
    assert result.report.plans == {"never": 1.0, "never again": 1.0, "always": always}
    assert result.report.proof_error <= LIMIT
    assert result.report.proof_cases > 0


def test_times_are_remembered_for_the_same_masks_only() -> None:
    """A second call that measures again, or one that takes another network's times."""
    clock = Clock(never=1.0, always=0.5)
    for dead in (12, 12, 11):
        result = remove_channels(stream(dead), (X,), costs=COSTS, judge=clock)
        assert result.program.state_dict["a.weight"].shape[1] == 16 - dead
    assert clock.widths == [16, 4, 16, 5]


def test_norm_that_stays() -> None:
    """A BatchNorm in front of its layer, as in densely connected networks, has three results and no shape."""

    class Normed(Stream):
        def __init__(self) -> None:
            super().__init__(width=16)
            self.first = nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.first(x).relu())

    model = Normed()
    model.a.weight.data[:, :12] = 0
    assert remove_channels(model, (X,), costs=COSTS, judge=Clock(never=1.0, always=0.5)).report.plan == "always"


def test_equal_plans_are_not_timed() -> None:
    """Where all costs lead to the same plan there is nothing to measure."""
    clock = Clock()
    result = remove_channels(stream(0), (X,), costs=COSTS, judge=clock)
    assert (result.report.plan, result.report.plans, clock.widths) == ("never", {}, [])
