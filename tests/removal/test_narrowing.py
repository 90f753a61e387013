"""Layers that work on fewer channels than their neighbours hold: exact, and only where it pays."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pdp_export.errors import UsageError
from pdp_export.removal import Removed, remove_channels
from pdp_export.removal.costs import Analytic, LayerWork, cost_model
from tests.removal.networks import kill, randomised

X = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))


class Stream(nn.Module):
    """Two branches on one stream, whose filters and columns die without asking each other."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.a, self.b = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.norm, self.head = nn.BatchNorm2d(width), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.norm(self.a(x)).sigmoid()
        return self.head((x + self.b(x)).mean((2, 3)))


def removed(model: nn.Module, objective: str, align: int = 1) -> Removed:
    return remove_channels(randomised(model), (X,), dynamic={0: {0: "batch"}}, objective=objective, align=align)


def operators(result: Removed) -> list[str]:
    return [str(node.target).split(".")[1] for node in result.module.graph.nodes if node.op == "call_function"]


def test_filters_of_one_branch_are_not_computed() -> None:
    """The stream needs all channels, the branch makes five: the others were computed as zero rows."""
    model = Stream()
    kill(model.b, 0, 3, 5)
    state = removed(model, "macs").program.state_dict
    assert state["b.weight"].shape[:2] == (5, 8)
    assert state["stem.weight"].shape[0] == 8


def test_constants_of_dead_filters_stand_in_their_places() -> None:
    """Behind a BatchNorm with a shift a dead filter adds a constant to its stream, which must not become zero."""
    model = Stream()
    model.a.weight.data[[1, 2]] = 0
    result = removed(model, "macs")
    assert result.program.state_dict["a.weight"].shape[0] == 6
    assert "add" in operators(result)


def test_columns_that_one_reader_ignores_are_not_read() -> None:
    """Each reader of a stream selects its own channels."""
    model = Stream()
    model.a.weight.data[:, [0, 1]] = 0
    model.b.weight.data[:, [2, 3, 4]] = 0
    state = removed(model, "macs").program.state_dict
    assert state["a.weight"].shape[1] == 6
    assert state["b.weight"].shape[1] == 5


def test_readers_of_the_same_channels_share_a_gather() -> None:
    """Two gathers of the same channels cost twice."""

    class Twice(Stream):
        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.head((x + self.a(x) * self.b(x)).mean((2, 3)))

    model = Twice()
    for layer in (model.a, model.b):
        layer.weight.data[:, [0, 5]] = 0
    assert operators(removed(model, "macs")).count("index_select") == 1


def test_padded_reader_keeps_one_constant_of_those_that_it_ignores() -> None:
    """Constants that stay for another reader are read through one column only."""

    class Constants(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.first(x)
            return self.a(y), y + self.b(x.mean(1, keepdim=True).expand(-1, 8, -1, -1))

    model = Constants()
    model.first.weight.data[[0, 1, 2]] = 0
    state = removed(model, "macs").program.state_dict
    assert state["a.weight"].shape[1] == 6


def test_outputs_keep_their_channels() -> None:
    """A dead filter that reaches an output is filled in, not computed."""
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 1))
    kill(model[2], 1, 4)
    result = removed(model, "macs")
    assert result.program.state_dict["2.weight"].shape[0] == 4
    assert result.module(X).shape[1] == 6


@pytest.mark.parametrize("align", [1, 4])
def test_widths_are_aligned(align: int) -> None:
    """A narrow layer off the blocks of its runtime is slower than a wide one on them."""
    model = Stream(16)
    model.a.weight.data[:, :5] = 0
    kill(model.b, *range(7))
    state = removed(model, "macs", align).program.state_dict
    assert state["a.weight"].shape[1] == (11 if align == 1 else 12)
    assert state["b.weight"].shape[0] == (9 if align == 1 else 12)


def test_latency_does_not_copy_for_a_trifle() -> None:
    """One column of eight saves less than a gather costs."""
    model = Stream()
    model.a.weight.data[:, 0] = 0
    assert "index_select" not in operators(removed(model, "latency"))


def test_latency_copies_where_it_pays() -> None:
    """Most of a wide layer is not read."""
    model = nn.Sequential(nn.Conv2d(3, 256, 1), nn.ReLU())

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.a, self.b = model, nn.Conv2d(256, 256, 3, padding=1), nn.Conv2d(256, 2, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.stem(x)
            return self.a(x), self.b(x)

    wide = Wide()
    wide.a.weight.data[:, 32:] = 0
    result = removed(wide, "latency")
    assert result.program.state_dict["a.weight"].shape[1] == 32
    (choice,) = [item for item in result.report.choices if item.layer == "a"]
    assert choice.chosen == "select"
    assert choice.costs["select"] < choice.costs["as it is"]


def test_size_counts_the_indices() -> None:
    """A gather that stores more numbers than the weights it saves makes the file larger."""
    model = nn.Sequential(nn.Conv2d(3, 64, 1), nn.Sigmoid(), nn.Conv2d(64, 1, 1))

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.one, self.all = model[0], model[2], nn.Conv2d(64, 64, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.first(x).sigmoid()
            return self.one(x), self.all(x)

    both = Both()
    both.one.weight.data[:, :8] = 0
    assert "index_select" not in operators(removed(both, "size"))
    both.all.weight.data[:, :16] = 0
    both.one.weight.data[:, :8] = 1
    assert "index_select" in operators(removed(both, "size"))


def test_unknown_objective() -> None:
    """A typo must not silently mean the default."""
    with pytest.raises(UsageError, match="unknown objective"):
        remove_channels(nn.Linear(2, 2), (torch.randn(1, 2),), objective="speed")  # type: ignore[arg-type]


def test_estimated_time_counts_whole_blocks() -> None:
    """A width of 9 costs as much as one of 16, and copies are not free."""
    cost = Analytic(block=16, fills=(16,))

    def layer(columns: int, available: int = 16, wanted: int = 16) -> LayerWork:
        return LayerWork("linear", 16, columns, available, wanted, (100,), (100,))

    narrow, wide, selected, expanded = cost.costs([layer(9, 9), layer(16), layer(9), layer(9, 9, 32)])
    assert narrow == wide < selected < expanded
    assert cost_model("latency", (16,)) == cost


def test_branch_that_is_one_constant_vanishes() -> None:
    """A residual branch whose last layer is dead was computed down to its last channel, to add a constant."""
    model = Stream()
    model.b.weight.data.zero_()
    result = removed(model, "latency")
    assert "b.weight" not in result.program.state_dict
    (gone,) = [layer for layer in result.report.layers if layer.layer == "b"]
    assert gone.shape_after == (0, 8, 3, 3)
    model.b.bias.data.zero_()
    assert operators(removed(model, "latency")).count("add") == 1


@pytest.mark.parametrize("times", [1, 2])
def test_depthwise_layer_computes_what_is_live(times: int) -> None:
    """It follows its channels, but in a stream they stay for others."""

    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.deep = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6 * times, 3, padding=1, groups=6)
            self.side, self.head = nn.Conv2d(6, 6 * times, 1), nn.Conv2d(6 * times, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.head(self.deep(x) + self.side(x))

    model = Deep()
    model.deep.weight.data[: 2 * times] = 0
    model.deep.weight.data[-1] = 0
    state = removed(model, "macs").program.state_dict
    assert state["deep.weight"].shape[0] == (3 if times == 1 else 8)
