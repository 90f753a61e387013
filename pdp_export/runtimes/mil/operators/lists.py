"""Lists of equally shaped tensors. Meaning: coremltools ``mil/ops/defs/iOS15/control_flow.py``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pdp_export.runtimes.mil.registry import check_size, operator
from pdp_export.runtimes.mil.types import torch_type

_LONGEST = 1 << 20


@dataclass(frozen=True)
class TensorList:
    """Elements (None where nothing was written yet), and whether a write behind the end makes the list longer."""

    items: tuple[Tensor | None, ...]
    grows: bool
    empty: Tensor | None

    def read(self, index: int) -> Tensor:
        """Return one element; an unwritten one is zeros where the shape of elements is known."""
        if not 0 <= index < len(self.items):
            raise IndexError(f"element {index} of a list of {len(self.items)}")
        item = self.items[index]
        found = self.empty if item is None else item
        if found is None:
            raise IndexError(f"element {index} was never written")
        return found

    def written(self, index: int, value: Tensor) -> TensorList:
        """Return the list with one element replaced."""
        if index < 0 or index >= (_LONGEST if self.grows else len(self.items)):
            raise IndexError(f"element {index} of a list of {len(self.items)}")
        items = list(self.items) + [None] * (index + 1 - len(self.items))
        items[index] = value
        return TensorList(tuple(items), self.grows, self.empty)


@operator("make_list")
def make_list(
    elem_shape: tuple[Any, ...] = (), init_length: int = 1, dynamic_length: bool = True, dtype: str = "fp32"
) -> TensorList:
    """A list of `init_length` elements; names in the shape of elements are sizes that are not known yet."""
    if not 0 <= init_length <= _LONGEST:
        raise ValueError(f"a list of {init_length} elements")
    sizes = [int(number) for item in elem_shape if isinstance(item, Tensor) for number in item.reshape(-1).tolist()]
    known = all(isinstance(item, Tensor) for item in elem_shape) and all(size >= 0 for size in sizes)
    check_size([init_length, *sizes] if known else [init_length])
    return TensorList(
        (None,) * init_length, dynamic_length, torch.zeros(sizes, dtype=torch_type(dtype)) if known else None
    )


@operator("list_length")
def list_length(ls: Any) -> Tensor:
    """Number of elements."""
    return torch.tensor(len(ls.items), dtype=torch.int32)


@operator("list_read")
def list_read(ls: Any, index: int) -> Tensor:
    """One element."""
    return _checked(ls).read(index)


@operator("list_write")
def list_write(ls: Any, index: int, value: Tensor) -> TensorList:
    """The list with one element replaced."""
    return _checked(ls).written(index, value)


@operator("list_gather")
def list_gather(ls: Any, indices: tuple[int, ...]) -> Tensor:
    """Some elements as one tensor."""
    return torch.stack([_checked(ls).read(index) for index in indices])


@operator("list_scatter")
def list_scatter(ls: Any, indices: tuple[int, ...], value: Tensor) -> TensorList:
    """The list with some elements replaced by the slices of a tensor."""
    result = _checked(ls)
    for index, item in zip(indices, value, strict=True):
        result = result.written(index, item)
    return result


def _checked(value: Any) -> TensorList:
    if not isinstance(value, TensorList):
        raise TypeError("a tensor where a list is expected")
    return value
