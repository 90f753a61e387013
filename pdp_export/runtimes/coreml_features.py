"""Inputs and outputs of a Core ML package, as its description declares them."""

from __future__ import annotations

import json
from typing import Any, Literal

from pdp_export.errors import FileError
from pdp_export.results import Pixels, TensorSpec
from pdp_export.runtimes.mil.values import shape_of

_COLOURS: dict[int, tuple[Literal["RGB", "BGR", "GRAYSCALE"], int, str]] = {
    10: ("GRAYSCALE", 1, "float32"),
    20: ("RGB", 3, "float32"),
    30: ("BGR", 3, "float32"),
    40: ("GRAYSCALE", 1, "float16"),
}
_PLACEHOLDER = "open"
_SCALE, _BIAS = "pdp_export.image.scale", "pdp_export.image.bias"


def input_specs(specification: Any) -> tuple[TensorSpec, ...]:
    """Return every input. An image is (1, channels, height, width) of pixels 0 to 255 in its own colour order."""
    noted = specification.description.metadata.userDefined
    specs = (_spec(feature, {}) for feature in specification.description.input)
    return tuple(spec.model_copy(update={"pixels": _pixels(noted)}) if spec.colour else spec for spec in specs)


def output_specs(specification: Any) -> tuple[TensorSpec, ...]:
    """Return every output that is a tensor; the probabilities of a classifier are one, in the order of its labels."""
    shapes = _declared_shapes(specification.mlProgram)
    classes = len(class_labels(specification))
    found = []
    for feature in specification.description.output:
        kind = feature.type.WhichOneof("Type")
        if kind == "dictionaryType":
            found.append(TensorSpec(name=feature.name, shape=(1, classes), dtype="float32"))
        elif kind in ("multiArrayType", "imageType"):
            found.append(_spec(feature, shapes))
    return tuple(found)


def class_labels(specification: Any) -> tuple[str, ...]:
    """Return the labels of a classifier in order, as text; empty for any other model."""
    for operation in _operations(specification.mlProgram):
        if operation.type == "classify":
            return _labels(specification.mlProgram, operation)
    return ()


def notes(specification: Any) -> list[str]:
    """Return what a tensor specification cannot say: images, labels and states, one line each."""
    lines = []
    for feature in specification.description.input:
        if feature.type.WhichOneof("Type") == "imageType":
            image = feature.type.imageType
            colour = _COLOURS[image.colorSpace][0] if image.colorSpace in _COLOURS else "unknown colours"
            lines.append(f"input {feature.name} is an image, {colour}, {image.width} x {image.height} pixels")
    labels = class_labels(specification)
    if labels:
        lines.append(f"a classifier of {len(labels)} labels, from {labels[0]!r} to {labels[-1]!r}")
    lines += [f"{feature.name} is a state: kept between predictions" for feature in specification.description.state]
    return lines


def _spec(feature: Any, program_shapes: dict[str, tuple[int, ...]]) -> TensorSpec:
    """Describe one feature; an open axis is named by its range, and outputs show it as size 1."""
    if feature.type.WhichOneof("Type") == "imageType":
        return _image(feature)
    array = feature.type.multiArrayType
    shape = tuple(array.shape) or program_shapes.get(feature.name, ())
    ranges = {axis: (size.lowerBound, size.upperBound) for axis, size in enumerate(array.shapeRange.sizeRanges)}
    dynamic = {axis: f"{low}..{high}" for axis, (low, high) in ranges.items() if low != high}
    choices = [tuple(item.shape) for item in array.enumeratedShapes.shapes]
    for axis in range(len(shape)):
        sizes = sorted({choice[axis] for choice in choices if len(choice) == len(shape)})
        if len(sizes) > 1:
            dynamic[axis] = " or ".join(map(str, sizes))
    dynamic |= {axis: _PLACEHOLDER for axis, size in enumerate(shape) if size < 0}
    return TensorSpec(
        name=feature.name, shape=tuple(max(size, 1) for size in shape), dtype=_dtype(array), dynamic=dynamic
    )


def _pixels(noted: Any) -> Pixels | None:
    """Return how the package scales pixels, where its metadata say so."""
    try:
        return Pixels(scale=json.loads(noted[_SCALE]), bias=json.loads(noted[_BIAS])) if _SCALE in noted else None
    except (ValueError, KeyError) as error:
        raise FileError(f"the metadata on pixels cannot be read: {error}", where=_SCALE) from error


def _image(feature: Any) -> TensorSpec:
    image = feature.type.imageType
    if image.colorSpace not in _COLOURS:
        raise FileError(f"{feature.name!r} is an image of no known colour space", where=feature.name)
    colour, channels, dtype = _COLOURS[image.colorSpace]
    flexible = image.WhichOneof("SizeFlexibility") is not None
    dynamic = {2: "height", 3: "width"} if flexible else {}
    shape = (1, channels, max(image.height, 1), max(image.width, 1))
    return TensorSpec(name=feature.name, shape=shape, dtype=dtype, dynamic=dynamic, layout="NCHW", colour=colour)


def _dtype(array: Any) -> str:
    name = array.ArrayDataType.Name(array.dataType) if array.dataType in array.ArrayDataType.values() else "UNKNOWN"
    return {"DOUBLE": "float64"}.get(name, str(name).lower())


def _declared_shapes(program: Any) -> dict[str, tuple[int, ...]]:
    """Return the declared shapes of the results of the main function (a flexible output has none elsewhere)."""
    return {out.name: shape_of(out.type.tensorType) for op in _operations(program) for out in op.outputs}


def _operations(program: Any) -> Any:
    if "main" not in program.functions:
        return ()
    function = program.functions["main"]
    if function.opset not in function.block_specializations:
        return ()
    return function.block_specializations[function.opset].operations


def _labels(program: Any, classify: Any) -> tuple[str, ...]:
    names = [argument.name for argument in classify.inputs["classes"].arguments]
    values = [argument.value for argument in classify.inputs["classes"].arguments if argument.HasField("value")]
    for operation in _operations(program):
        if operation.type == "const" and operation.outputs and operation.outputs[0].name in names:
            values.append(operation.attributes["val"])
    for value in values:
        tensor = value.immediateValue.tensor
        texts = [str(item) for item in tensor.strings.values]
        numbers = [str(item) for item in (*tensor.longInts.values, *tensor.ints.values)]
        listed = [
            str(text)
            for item in value.immediateValue.list.values
            for text in (*item.immediateValue.tensor.strings.values, *item.immediateValue.tensor.longInts.values)
        ]
        found = texts or numbers or listed
        if found:
            return tuple(found)
    return ()
