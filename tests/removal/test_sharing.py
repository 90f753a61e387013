"""Readers that want other channels of one layer's result: copies of the layer, or classes, in the place of selects."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from pdp_export.removal.carrying_out import remove_from
from pdp_export.removal.costs import CostModel, Size
from pdp_export.removal.proof import LIMIT
from pdp_export.removal.records import RemovalReport
from pdp_export.removal.simplification import prepare
from tests.removal.cost_models import NoGathers, NoSums
from tests.removal.networks import randomised

X = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))


class Fork(nn.Module):
    """A layer, element-wise work behind it, and several readers."""

    def __init__(self, producer: nn.Module, stage: nn.Module, readers: Sequence[nn.Module], tail: bool = False) -> None:
        super().__init__()
        self.producer, self.stage, self.readers, self.tail = producer, stage, nn.ModuleList(readers), tail

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.stage(self.producer(x))
        outputs = tuple(reader(x) for reader in self.readers)
        return (*outputs, x.amax((-1, -2))) if self.tail else outputs


class Scale(nn.Module):
    """A product with a stored number for each channel."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x * self.factor)


def conv(inputs: int, outputs: int, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2)


def readers(width: int = 64) -> list[nn.Module]:
    """Two readers that want a quarter of the channels in common."""
    found = [conv(width, 32), conv(width, 48)]
    found[0].weight.data[:, width * 5 // 8 :] = 0
    found[1].weight.data[:, : width * 3 // 8] = 0
    return list(found)


def removed(model: nn.Module, cost: CostModel, x: Tensor = X) -> tuple[GraphModule, RemovalReport]:
    """Remove channels, proven to be the same function."""
    module, report = remove_from(prepare(model, (x,), None), (1,), cost, stage="test")
    assert report.proof_error <= LIMIT
    return module, report


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items() if "weight" in name}


@pytest.mark.parametrize("stage", [nn.ReLU(), Scale(64, 1, 1), nn.BatchNorm2d(64)])
def test_each_reader_gets_a_copy_of_a_cheap_layer(stage: nn.Module) -> None:
    """Both readers held the union of what they read, or a gather each, though a copy of the layer is nearly free."""
    module, report = removed(randomised(Fork(conv(3, 64), stage, readers())).eval(), NoSums())
    found = shapes(module)
    assert found["readers.0.weight"][1] == found["producer.weight_0"][0] == 40
    assert found["readers.1.weight"][1] == found["producer.weight_0_1"][0] == 40
    assert "producer.weight" not in found
    assert report.choices[-1].chosen == "recompute"
    assert not any(node.target is torch.ops.aten.index_select.default for node in module.graph.nodes)


def test_readers_sum_over_the_classes_that_they_read() -> None:
    """A layer that is dear to copy is divided by who reads what: nothing is computed twice, nothing is copied."""
    model = randomised(Fork(conv(3, 64), nn.ReLU(), readers())).eval()
    module, report = removed(model, NoGathers())
    producers = sorted(shape[0] for name, shape in shapes(module).items() if name.startswith("producer"))
    assert producers == [16, 24, 24]
    assert sorted(shape[1] for name, shape in shapes(module).items() if name.startswith("readers.0")) == [16, 24]
    assert report.choices[-1].chosen == "classes"


def test_three_readers_with_all_seven_classes() -> None:
    """Every subset of three readers is a class of its own."""
    found = [conv(16, 4), conv(16, 4, 1), nn.ConvTranspose2d(16, 4, 3)]
    for bit, reader in enumerate(found):
        dead = [channel for channel in range(1, 8) if not channel >> bit & 1]
        columns = reader.weight.data.transpose(0, 1) if isinstance(reader, nn.Conv2d) else reader.weight.data
        columns[[*dead, *(channel + 8 for channel in dead)]] = 0
        columns[[0, 8]] = 0
    module, _ = removed(randomised(Fork(conv(3, 16, 1), nn.SiLU(), found)).eval(), NoGathers())
    producers = [shape[0] for name, shape in shapes(module).items() if name.startswith("producer")]
    assert producers == [2] * 7


def test_layer_that_something_else_reads_stays() -> None:
    """The tail wants all channels: the copies come on top, which pays here since gathers are dear."""
    module, _ = removed(randomised(Fork(conv(3, 64), nn.ReLU(), readers(), tail=True)).eval(), NoSums())
    found = shapes(module)
    assert found["producer.weight"][0] == 64
    assert (found["producer.weight_0"][0], found["producer.weight_0_1"][0]) == (40, 40)


def test_dead_filters_bring_their_constants_into_every_copy() -> None:
    """A dead filter with a bias is a constant that padded readers need at the border: one of each copy's channels."""
    model = randomised(Fork(nn.Sequential(conv(3, 64), nn.BatchNorm2d(64)), nn.ReLU(), readers())).eval()
    model.producer[0].weight.data[[3, 4, 30, 31, 60]] = 0
    for cost in (NoSums(), NoGathers()):
        removed(model, cost)


def test_linear_layers_of_a_sequence() -> None:
    """Channels of a sequence are the last axis, also of what is stored for each of them."""
    found = [nn.Linear(32, 8), nn.Linear(32, 8)]
    found[0].weight.data[:, 20:] = 0
    found[1].weight.data[:, :12] = 0
    model = randomised(Fork(nn.Linear(6, 32), Scale(32), found)).eval()
    x = torch.randn(2, 5, 6)
    for cost, way in ((NoSums(), "recompute"), (NoGathers(), "classes")):
        assert removed(model, cost, x)[1].choices[-1].chosen == way


def test_chain_of_forks_takes_one_of_two() -> None:
    """A layer that is copied must not also be a reader that sums: its copies would read what is gone."""

    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = Fork(conv(3, 64), nn.ReLU(), readers())
            self.second = nn.ModuleList(readers(48))

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            left, right = self.first(x)
            return (left, *(reader(torch.relu(right)) for reader in self.second))

    for cost in (NoSums(), NoGathers()):
        removed(randomised(Chain()).eval(), cost)


def test_size_takes_classes_in_the_place_of_indices() -> None:
    """Stored numbers count: indices are numbers too, a second copy of a layer is more of them."""
    many = [conv(512, 8, 1), conv(512, 8, 1)]
    many[0].weight.data[:, 320:] = 0
    many[1].weight.data[:, :192] = 0
    _, report = removed(randomised(Fork(conv(3, 512), nn.ReLU(), many)).eval(), Size())
    assert report.choices[-1].chosen == "classes"
