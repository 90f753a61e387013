"""Work as a function of kept channels: held against what is left after channels were really taken out."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pdp_export.graph.capture import capture
from pdp_export.graph.channel_groups import channel_groups
from pdp_export.graph.channel_work import channel_macs, channel_parameters
from pdp_export.graph.counting import count
from pdp_export.removal import remove_channels


class Mixed(nn.Module):
    """Depthwise, concatenation, residual stream, flatten, a transposed and a grouped convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 5, 3, padding=1)
        self.deep, self.mix = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(11, 7, 1)
        self.body, self.up = nn.Conv2d(7, 7, 3, padding=1), nn.ConvTranspose2d(7, 8, 2, stride=2)
        self.grouped, self.head = nn.Conv2d(8, 8, 3, groups=2), nn.Linear(8 * 36 + 7 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.mix(torch.cat([self.deep(self.a(x)), self.b(x)], 1))
        y = y + self.body(y)
        return self.head(torch.cat([self.grouped(self.up(y)).flatten(1), y.flatten(1)], 1))


class Sliced(nn.Module):
    """A reader of half of the channels: how many of them go depends on which."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.part, self.whole = nn.Linear(4, 6), nn.Linear(3, 5), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.part(y[:, :3]) + self.whole(y)


class Twice(nn.Module):
    """One layer in two places counts its work twice and its parameters once."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.b(self.a(x)).relu()))


NETS = {"mixed": (Mixed, (2, 3, 4, 4)), "sliced": (Sliced, (2, 4)), "twice": (Twice, (2, 3, 4, 4))}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("seed", range(3))
def test_work_is_what_removal_leaves(name: str, seed: int) -> None:
    """Rows, columns, flattened and concatenated columns; never less than the truth."""
    build, shape = NETS[name]
    torch.manual_seed(seed)
    model, x = build(), torch.randn(shape)
    program = capture(model, (x,))
    groups = [group for group in channel_groups(program) if group.frozen is None]
    names = [group.name for group in groups]
    macs, parameters = channel_macs(program, names), channel_parameters(program, names)
    dense = count(program)
    full = [group.channels for group in groups]
    assert (macs.of(full), parameters.of(full)) == (dense.macs, dense.parameters)

    pruned, kept = copy.deepcopy(model), []
    for group in groups:
        dead = torch.randperm(group.channels)[: int(torch.randint(0, group.channels, ()))]
        kept.append(group.channels - len(dead))
        for member in (*group.filters, *group.followers):
            pruned.get_parameter(member).data[dead] = 0
    left = count(remove_channels(pruned, (x,)).program)
    if name == "sliced":
        assert macs.of(kept) >= left.macs
        assert parameters.of(kept) >= left.parameters
    else:
        assert (macs.of(kept), parameters.of(kept)) == (left.macs, left.parameters)


def test_what_one_group_saves_is_the_difference() -> None:
    """Where a group is both row and column of a layer, the corner must not be counted twice."""
    program = capture(Mixed(), (torch.randn(2, 3, 4, 4),))
    groups = [group for group in channel_groups(program) if group.frozen is None]
    work = channel_macs(program, [group.name for group in groups])
    kept = np.array([group.channels - 1 for group in groups])
    block = np.array([1 + index % 2 for index in range(len(groups))])
    for index, saved in enumerate(work.saved(kept, block)):
        less = kept.copy()
        less[index] -= block[index]
        assert saved == work.of(kept) - work.of(less)


def test_free_branches_save_rows_only() -> None:
    """Columns behind a join go only where all branches agree, which counts cannot tell."""
    program = capture(Mixed(), (torch.randn(2, 3, 4, 4),))
    stream = channel_macs(program, ["mix.weight"])
    free = channel_macs(program, ["mix.weight", "body.weight"], ties="free")
    assert stream.of([7]) == free.of([7, 7]) == count(program).macs
    rows, columns = 16 * 11, 16 * 7 * 9  # of mix, and what body reads of it
    assert free.of([7, 7]) - free.of([6, 7]) == rows + columns
    assert free.of([7, 7]) - free.of([7, 6]) == 16 * 7 * 9


def test_costs_of_parameters() -> None:
    """A measured cost counts for its own layer and nothing else."""
    program = capture(Twice(), (torch.randn(2, 3, 4, 4),))
    work = channel_parameters(program, ["a.weight"], costs={"a.weight": 2.0})
    assert [work.of([kept]) for kept in (6, 3)] == [2.0 * 18, 2.0 * 9]
