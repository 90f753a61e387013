"""What every codec makes of a tensor, and what a codec is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pdp_export.encoding.expressions import Expression

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Code:
    """An encoded tensor.

    Attributes:
        encoding: Name of the codec, for example "gap6".
        arrays: What has to be stored, by role; "values" are the non-zero values in the stored dtype.
        shape: Shape of the tensor.
        parameters: What the codec needs besides, for example ``{"width": 6}``.
    """

    encoding: str
    arrays: Mapping[str, Array]
    shape: tuple[int, ...]
    parameters: Mapping[str, int] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays together."""
        return sum(array.nbytes for array in self.arrays.values())


@dataclass(frozen=True)
class Codec:
    """How one encoding works.

    Attributes:
        encode: Any tensor to its code; -0.0 becomes +0.0, all other bits are kept.
        decode: The way back. Raises ValueError for codes that contradict themselves.
        predicted_bytes: Exactly ``encode(values).nbytes``, without building the code; None for values it cannot hold.
        graph: The decoder as an expression of standard operators, in the dtype of the values.
        samples: Small codes whose graphs have every form that `graph` can take.
        rebuild: From a sample, arrays and the constants of its graph by role, to the code that has them.
    """

    encode: Callable[[Array], Code]
    decode: Callable[[Code], Array]
    predicted_bytes: Callable[[Array], int | None]
    graph: Callable[[Code], Expression]
    samples: Callable[[], Iterable[Code]]
    rebuild: Callable[[Code, Mapping[str, Array], Mapping[str, Array]], Code]


def with_shape(sample: Code, arrays: Mapping[str, Array], constants: Mapping[str, Array]) -> Code:
    """Return the code of a decoder that ends with a reshape to the constant ``shape``."""
    return Code(sample.encoding, arrays, shape_of(constants["shape"]), sample.parameters)


def shape_of(constant: Array) -> tuple[int, ...]:
    """Return a shape that a file claims.

    Raises:
        ValueError: an axis is not positive, or the constant is no list.
    """
    shape = tuple(int(axis) for axis in constant)
    if min(shape, default=1) < 1:
        raise ValueError(f"the shape {shape} has an axis below 1")
    return shape


def require(condition: object, message: str) -> None:
    """Raise ValueError unless the condition holds."""
    if not condition:
        raise ValueError(message)
