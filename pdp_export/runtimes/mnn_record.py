"""What the converter wrote about a model into the label of an .mnn file (its ``bizCode`` string), as JSON.

The format itself has no place for metadata, dynamic axes, output shapes or parameter names. A file by
another tool has another label and no record; everything else is read from the graph either way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, ValidationError

from pdp_export.results import Record, TensorSpec
from pdp_export.runtimes.mnn_file import MnnNet


class WeightName(Record):
    """The PyTorch name and shape of the weight behind a tensor of the graph.

    `transposed`: the right factor of ``x @ w``, (C_in, C_out) in PyTorch and (C_out, C_in) in the file.
    """

    name: str
    shape: tuple[int, ...]
    transposed: bool = False


class MnnRecord(Record):
    """The record; `weights` maps the name of a layer's output tensor to its weight."""

    pdp_export: Literal[1]
    metadata: Mapping[str, str] = Field(default_factory=dict)
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    weights: Mapping[str, WeightName] = Field(default_factory=dict)

    @classmethod
    def parse(cls, label: str) -> MnnRecord | None:
        """Return the record in a label, or None when the label is something else."""
        try:
            return cls.model_validate_json(label)
        except ValidationError:
            return None


def metadata_of(label: str, record: MnnRecord | None) -> dict[str, str]:
    """Return the metadata; the label of another tool's file is kept as ``bizCode``."""
    if record is not None:
        return dict(record.metadata)
    return {"bizCode": label} if label else {}


def specs_of(
    net: MnnNet, record: MnnRecord | None
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], tuple[str, ...]]:
    """Return inputs, outputs and notes: the graph decides, the record adds dynamic axes and output shapes."""
    known = {} if record is None else {spec.name: spec for spec in (*record.inputs, *record.outputs)}
    notes = [
        f"the record of input {spec.name!r} contradicts the graph and was ignored"
        for spec in net.inputs
        if spec.name in known and not _agree(spec, known[spec.name])
    ]
    inputs = tuple(_merged(spec, known.get(spec.name)) for spec in net.inputs)
    outputs = tuple(known.get(name, TensorSpec(name=name, shape=())) for name in net.outputs)
    if any(name not in known for name in net.outputs):
        notes.append("an .mnn file stores no output shapes")
    return inputs, outputs, tuple(notes)


def _merged(spec: TensorSpec, recorded: TensorSpec | None) -> TensorSpec:
    if recorded is None or not _agree(spec, recorded):
        return spec
    return spec.model_copy(update={"shape": recorded.shape, "dynamic": recorded.dynamic})


def _agree(spec: TensorSpec, recorded: TensorSpec) -> bool:
    return len(spec.shape) == len(recorded.shape) and all(
        mine == theirs or axis in recorded.dynamic
        for axis, (mine, theirs) in enumerate(zip(spec.shape, recorded.shape, strict=True))
    )
