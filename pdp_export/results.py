"""The words that stages, runtimes, validation and report share. All of them travel as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

Layout = Literal["NCHW", "NHWC", "any"]


class Record(BaseModel):
    """Base of the frozen records; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=False)


class Verdict(StrEnum):
    """The outcome of one check. NOT_RUN and INCONCLUSIVE are never a pass."""

    PASS = "PASS"  # noqa: S105 - a verdict, not a password
    FAIL = "FAIL"
    NOT_RUN = "NOT_RUN"
    INCONCLUSIVE = "INCONCLUSIVE"


class Check(Record):
    """One check with its verdict.

    `value` and `limit` are in the unit named by `name` (for example ``max_abs``);
    `reason` is mandatory in spirit for every verdict but PASS.
    """

    name: str
    verdict: Verdict
    value: float | None = None
    limit: float | None = None
    reason: str = ""


class Pixels(Record):
    """An image input: the network sees ``scale * pixel + bias`` per channel, for pixels from 0 to 255."""

    scale: tuple[float, ...]
    bias: tuple[float, ...]


class TensorSpec(Record):
    """One input or output of a program or file.

    `shape` holds an example size for every axis, dynamic ones included; `dynamic` maps an axis
    to its name. `layout` says how a rank-4 image tensor is laid out; "any" otherwise. `pixels` is set where a file
    takes pixels and is known to scale them itself; `colour` is the order of the channels of a file that takes pictures.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    dynamic: Mapping[int, str] = Field(default_factory=dict)
    layout: Layout = "any"
    pixels: Pixels | None = None
    colour: Literal["", "RGB", "BGR", "GRAYSCALE"] = ""


class TensorFacts(Record):
    """One constant tensor as it is stored in a file.

    `zeros` counts zero elements after decoding; `stored_bytes` is what the tensor occupies in the
    file, indices and masks included. `max_abs` is its largest finite magnitude, None where that was not read.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    stored_dtype: str
    encoding: str
    zeros: int
    elements: int
    stored_bytes: int
    max_abs: float | None = None


class FileFacts(Record):
    """What a written file really holds, read back from the disk.

    `file_bytes` is the size of the file, or of all files of a package together. `expanded`: the file says that it was
    written with more sparse weights than it holds, so something made them dense again.
    """

    format: str
    file_bytes: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    tensors: tuple[TensorFacts, ...]
    operators: Mapping[str, int] = Field(default_factory=dict)
    metadata: Mapping[str, str] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    expanded: bool = False

    @property
    def zeros(self) -> int:
        """Zero elements over all constant tensors."""
        return sum(tensor.zeros for tensor in self.tensors)

    @property
    def elements(self) -> int:
        """Elements over all constant tensors."""
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def encodings(self) -> dict[str, int]:
        """How many tensors use each encoding."""
        counts: dict[str, int] = {}
        for tensor in self.tensors:
            counts[tensor.encoding] = counts.get(tensor.encoding, 0) + 1
        return counts


class StoredWeight:
    """A decoded weight of rank >= 2 in PyTorch layout: (C_out, C_in/groups, kH, kW) or (C_out, C_in).

    The dtype is the one stored in the file (float16 stays float16). Integers mean ``values * scale``, with a scale that
    broadcasts against them; without one, nothing is known of their meaning.
    """

    def __init__(
        self, name: str, values: np.ndarray[Any, Any], encoding: str, scale: np.ndarray[Any, Any] | None = None
    ) -> None:
        self.name = name
        self.values = values
        self.encoding = encoding
        self.scale = scale


class Execution(Record):
    """What runs a file on this machine, and why its time must not be reported as a latency (empty: it may be)."""

    by: str
    why_not_timed: str = ""


class StageResult(Record):
    """What one stage did: seconds of wall time, a one-line summary, and its own figures."""

    name: str
    seconds: float
    summary: str
    figures: Mapping[str, Any] = Field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class Skipped(Record):
    """A layer that a stage left alone, with the reason. The same record enters the report."""

    layer: str
    stage: str
    reason: str
