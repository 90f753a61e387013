"""Batches on their way to the model: counted, checked, split into inputs and target."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from pdp_export.errors import DataError
from pdp_export.tasks.data import unpack

Batch = tuple[tuple[Tensor, ...], Any]


def length(loader: Iterable[Any], key: str) -> int:
    """Return the number of batches; a schedule needs to know how long the run is.

    Raises:
        DataError: for a loader without a length, or an empty one.
    """
    try:
        count = len(loader)  # type: ignore[arg-type]
    except TypeError as error:
        raise DataError(
            f"the {key} loader has no length, so the schedules cannot be laid out",
            where=f"data.factory: {key}",
            hint="return a DataLoader over a sized dataset, or give the loader a __len__",
        ) from error
    if count < 1:
        raise _empty(key)
    return count


class BatchReader:
    """Reads ``(inputs, target)`` batches and holds every batch to the shapes of the first one.

    Axis 0 is the batch and may differ; so may the axes in `dynamic` (by input index). `names` puts
    a dict of inputs into the model's order.
    """

    def __init__(
        self, names: Sequence[str] = (), dynamic: Mapping[int, Collection[int]] | None = None, key: str = "train"
    ) -> None:
        self.names, self.dynamic, self.key = names, dynamic or {}, key
        self._first: list[tuple[Any, ...]] | None = None

    def read(self, loader: Iterable[Any]) -> Iterator[Batch]:
        """Yield every batch, checked.

        Raises:
            DataError: for an empty loader, an empty batch, or a batch whose shapes change.
        """
        count = 0
        for count, batch in enumerate(loader, start=1):
            inputs, target = unpack(batch, self.names)
            self._check(inputs, count)
            yield inputs, target
        if count == 0:
            raise _empty(self.key)

    def _check(self, inputs: tuple[Tensor, ...], number: int) -> None:
        where = f"data.factory: {self.key}, batch {number}"
        for index, value in enumerate(inputs):
            if not isinstance(value, Tensor):
                raise DataError(f"input {index} is a {type(value).__name__}, not a tensor", where=where)
            if value.numel() == 0:
                raise DataError(f"input {index} is empty: shape {tuple(value.shape)}", where=where)
        found = [self._signature(index, value) for index, value in enumerate(inputs)]
        self._first = self._first or found
        if found != self._first:
            raise DataError(
                f"the inputs changed from {_words(self._first)} to {_words(found)}",
                where=where,
                hint="make all batches alike, or declare the axis dynamic in the recipe's inputs",
            )

    def _signature(self, index: int, value: Tensor) -> tuple[Any, ...]:
        free = {0, *self.dynamic.get(index, ())}
        return (value.dtype, *(None if axis in free else size for axis, size in enumerate(value.shape)))


def _words(signature: list[tuple[Any, ...]]) -> str:
    parts = []
    for dtype, *sizes in signature:
        shape = ", ".join("*" if size is None else str(size) for size in sizes)
        parts.append(f"{str(dtype).removeprefix('torch.')} ({shape})")
    return " and ".join(parts) or "nothing"


def _empty(key: str) -> DataError:
    return DataError(
        f"the {key} loader is empty", where=f"data.factory: {key}", hint="check the data factory's split and batch size"
    )
