"""Sizes that may change: the range that a model needs is found, and a second size that it accepts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pdp_export.errors import CaptureError
from pdp_export.graph.archive import load_program, save_program
from pdp_export.graph.capture import capture
from pdp_export.graph.dynamic_sizes import dynamic_axes, other_sizes

ALL = {0: {0: "batch", 2: "height", 3: "width"}}


class Halved(nn.Module):
    """Halves an image `times`, and joins it with itself when it has its size again."""

    def __init__(self, times: int, join: bool) -> None:
        super().__init__()
        self.times, self.join = times, join
        self.layers = nn.ModuleList([nn.Conv2d(3, 3, 3, stride=2, padding=1) for _ in range(times)])

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in self.layers:
            y = layer(y)
        return x + F.interpolate(y, scale_factor=2.0**self.times) if self.join else y.mean((2, 3))


@pytest.mark.parametrize(("times", "smallest"), [(1, 4), (2, 8)])
def test_smallest_image_is_found(times: int, smallest: int) -> None:
    """Torch refuses every network with a stride: inside it, an image of two pixels would have one."""
    program = capture(Halved(times, join=False), (torch.randn(2, 3, 32, 48),), ALL)
    for height in (smallest, 23, 64):
        assert program.module()(torch.randn(1, 3, height, smallest)).shape == (1, 3)


def test_image_that_is_smaller_than_the_model_needs() -> None:
    """The search for a range must end."""
    with pytest.raises(CaptureError, match=r"height|width"):
        capture(Halved(3, join=False), (torch.randn(2, 3, 7, 7),), ALL)


def test_second_size_fits_the_model(tmp_path: Path) -> None:
    """An image one pixel larger broke what needs an even one; a saved program forgets nothing of it."""
    program = capture(Halved(1, join=True), (torch.randn(2, 3, 8, 12),), ALL)
    assert other_sizes(program) == {0: {0: 3, 2: 10, 3: 14}}
    save_program(program, tmp_path / "net.pt2")
    assert other_sizes(load_program(tmp_path / "net.pt2")) == other_sizes(program)


def test_names_of_derived_sizes_are_names() -> None:
    """Torch calls an even size ``2*s53``, which it does not take back as a name."""
    program = capture(Halved(1, join=True), (torch.randn(2, 3, 8, 8),), ALL)
    names = [name for axes in dynamic_axes(program).values() for name in axes.values()]
    assert len(names) == 3
    assert all(name.isidentifier() for name in names)
    again = capture(program.module(check_guards=False), (torch.randn(2, 3, 8, 8),), dynamic_axes(program))
    assert again.module()(torch.randn(1, 3, 6, 10)).shape == (1, 3, 6, 10)


def test_static_program_has_no_other_size() -> None:
    """A second size would fail."""
    assert other_sizes(capture(Halved(1, join=True), (torch.randn(2, 3, 8, 8),))) == {}
