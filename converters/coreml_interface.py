"""Names, types and shapes of the inputs and outputs of a Core ML package."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pdp_export.converters.coreml_guards import layer_of
from pdp_export.converters.coreml_image import Image
from pdp_export.errors import ConversionError
from pdp_export.results import TensorSpec

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch.export import ExportedProgram
    from torch.fx import Node

LARGEST_DYNAMIC_SIZE = 64
_SPECIALISED = 2
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Range:
    """A dynamic size: its symbol in the program, finite bounds, and the size that is the default."""

    symbol: str
    lower: int
    upper: int
    default: int


@dataclass(frozen=True)
class Feature:
    """One input or output of the package; an output has no shape of its own."""

    name: str
    dtype: type[np.generic]
    shape: tuple[int | Range, ...] = ()


def check(program: ExportedProgram, inputs: tuple[TensorSpec, ...], outputs: tuple[str, ...], *, fixed: bool) -> None:
    """Raise ConversionError for a type, name or size that Core ML cannot express."""
    _inputs(program, inputs, fixed=fixed)
    _outputs(program, outputs)


def input_types(
    program: ExportedProgram, specs: tuple[TensorSpec, ...], *, fixed: bool, image: Image | None = None
) -> list[Any]:
    """Return one ``coremltools.TensorType`` per user input of the program.

    A dynamic axis becomes a range. Its default is the smallest size for the batch axis and the example
    size for any other, since the Neural Engine is used for the default shape only. With `fixed`, or where
    a spec declares no dynamic axis, the example shape is written instead. `image` names the input that takes pixels.

    Raises:
        ConversionError: for a type, name or symbolic size that Core ML cannot express.
    """
    import coremltools as ct

    features = _inputs(program, specs, fixed=fixed)
    ranges: dict[str, Any] = {}  # one object per symbol: equal sizes stay equal
    for size in (size for feature in features for size in feature.shape if isinstance(size, Range)):
        ranges.setdefault(size.symbol, ct.RangeDim(size.lower, size.upper, default=size.default))
    found = []
    for feature in features:
        shape = tuple(ranges[size.symbol] if isinstance(size, Range) else size for size in feature.shape)
        if image is not None and feature.name == image.name:
            colour = {"RGB": ct.colorlayout.RGB, "BGR": ct.colorlayout.BGR, "GRAY": ct.colorlayout.GRAYSCALE}
            found.append(ct.ImageType(name=feature.name, shape=shape, color_layout=colour[image.colour]))
        else:
            found.append(ct.TensorType(name=feature.name, shape=shape, dtype=feature.dtype))
    return found


def output_types(program: ExportedProgram, names: tuple[str, ...]) -> list[Any]:
    """Return one ``coremltools.TensorType`` per user output; floats leave the package as float32."""
    import coremltools as ct

    return [ct.TensorType(name=feature.name, dtype=feature.dtype) for feature in _outputs(program, names)]


def check_written(specification: Any, inputs: tuple[TensorSpec, ...], outputs: tuple[str, ...]) -> None:
    """Raise ConversionError unless the package has exactly the names that were asked for, in order."""
    for kind, features, wanted in (
        ("input", specification.description.input, [spec.name for spec in inputs]),
        ("output", specification.description.output, list(outputs)),
    ):
        written = [feature.name for feature in features]
        if written != wanted:
            raise ConversionError(
                f"coremltools wrote the {kind} names {written}; {wanted} were asked for",
                where=f"{kind}s",
                hint=f"rename the {kind}s in the recipe; a name may clash with a layer of the network",
            )


def _inputs(program: ExportedProgram, specs: tuple[TensorSpec, ...], *, fixed: bool) -> list[Feature]:
    nodes = _nodes(program, list(program.graph_signature.user_inputs), len(specs), "inputs")
    features = []
    for spec, node in zip(specs, nodes, strict=True):
        _check_name(spec.name)
        value = node.meta["val"]
        if len(value.shape) != len(spec.shape):
            raise ConversionError(
                f"input {spec.name!r} has {len(value.shape)} axes in the program, {len(spec.shape)} in the request",
                where=spec.name,
                hint="give the example shape that the model was captured with",
            )
        sizes = tuple(_size(program, value, axis, spec, fixed=fixed) for axis in range(len(spec.shape)))
        features.append(Feature(spec.name, _numpy_type(node, spec.name), sizes))
    return features


def _outputs(program: ExportedProgram, names: tuple[str, ...]) -> list[Feature]:
    nodes = _nodes(program, list(program.graph_signature.user_outputs), len(names), "outputs")
    for name in names:
        _check_name(name)
    return [Feature(name, _numpy_type(node, name)) for name, node in zip(names, nodes, strict=True)]


def _nodes(program: ExportedProgram, names: list[Any], count: int, kind: str) -> list[Node]:
    by_name = {node.name: node for node in program.graph.nodes}
    if len(names) != count or any(name not in by_name for name in names):
        raise ConversionError(
            f"the program has {len(names)} {kind} ({', '.join(map(str, names))}); the request names {count}",
            where=kind,
            hint=f"name every tensor the model {'takes' if kind == 'inputs' else 'returns'}, in order",
        )
    return [by_name[name] for name in names]


def _size(program: ExportedProgram, value: Any, axis: int, spec: TensorSpec, *, fixed: bool) -> int | Range:
    size = value.shape[axis]
    if isinstance(size, int):
        if size != spec.shape[axis]:
            raise ConversionError(
                f"input {spec.name!r} was captured with {size} at axis {axis}; the request says {spec.shape[axis]}",
                where=spec.name,
                hint="capture the model with a dynamic axis or with this size",
            )
        return size
    if fixed or axis not in spec.dynamic:
        return spec.shape[axis]
    lower, upper = _bounds(program, size, spec.name)
    example = min(max(spec.shape[axis], lower), upper)
    return Range(str(size), lower, upper, default=lower if axis == 0 else example)


def _bounds(program: ExportedProgram, size: torch.SymInt, name: str) -> tuple[int, int]:
    """Return a finite range: Core ML refuses an open one. torch's lower bound 2 only means "not specialised to 1"."""
    found = program.range_constraints.get(size.node.expr)
    if found is None:
        raise ConversionError(
            f"input {name!r} has the size {size}, an expression; Core ML knows independent ranges only",
            where=name,
            hint="set the option fixed_shapes: true for this target",
        )
    lower = 1 if found.lower <= _SPECIALISED else int(found.lower)
    upper = LARGEST_DYNAMIC_SIZE if found.upper >= 1 << 31 else int(found.upper)
    return lower, max(lower, upper)


def _numpy_type(node: Node, name: str) -> type[np.generic]:
    import numpy as np
    import torch

    dtype = node.meta["val"].dtype
    if dtype.is_floating_point:
        return np.float32
    if dtype in {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8}:
        return np.int32
    raise ConversionError(
        f"{name!r} has dtype {dtype}; Core ML packages take and return float32 and int32",
        where=layer_of(node),
        hint="convert it to float or int inside the model",
    )


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConversionError(
            f"{name!r} cannot name a Core ML tensor (letters, digits and _, no digit first)",
            where=name,
            hint="rename it in the recipe",
        )
