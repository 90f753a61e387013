"""Writes .tflite files for LiteRT (TensorFlow Lite) by way of litert-torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdp_export.errors import ConversionError, UsageError, near_misses
from pdp_export.files import atomic_path
from pdp_export.targets import ConvertRequest, Effect, Effects, Target

if TYPE_CHECKING:
    import numpy as np
    from torch.export import ExportedProgram

METADATA_NAME = "pdp_export"
_LAYOUTS = ("nhwc", "nchw")

TARGET = Target(
    name="litert",
    title="LiteRT (.tflite): Android, iOS, web",
    suffix=".tflite",
    extra="litert",
    modules=("litert_torch", "ai_edge_litert", "flatbuffers"),
    precisions=("fp32",),
    encodings=("auto", "dense", "sparse"),
    effects={
        "unstructured": Effects(
            size=Effect(expected=True, why="pruned weights are stored as sparse tensors where that is smaller"),
            ram=Effect(expected=False, why="LiteRT unpacks sparse weights to dense ones when it loads the file"),
            speed=Effect(
                expected=None,
                why="ARM and web only (never x86 with AVX): a 3x3 stride-2 RGB stem, then 1x1 and depthwise "
                "convolutions up to a global mean, with more than 66.7 % zeros in 1x1 and linear weights",
            ),
        ),
        "channel": Effects(
            size=Effect(expected=True, why="removed channels are not stored"),
            ram=Effect(expected=True, why="weights and activations are smaller"),
            speed=Effect(expected=True, why="fewer multiplications in every layer, on every device"),
        ),
    },
    atol={"fp32": 5e-5},
    channel_alignment=8,
    storage={"fp32": {"dense": (32, 0), "sparse": (0, 40)}},
    options={"layout": "nhwc or nchw for rank-4 image inputs (nhwc)"},
)


def check(program: ExportedProgram, request: ConvertRequest, pattern: str) -> None:
    """Raise what `convert` would raise for options and names (see `registry.Converter.check`)."""
    from pdp_export.converters import litert_lower

    _file_layouts(request)
    request.check_pattern(TARGET, pattern)
    litert_lower.check_counts(program, request.inputs, request.outputs)


def convert(program: ExportedProgram, path: Path, request: ConvertRequest) -> None:
    """Write `program` to the .tflite file `path`.

    Every shape is fixed to the example in ``request.inputs``, dynamic axes included. Image inputs (layout "NCHW")
    become NHWC unless ``options["layout"]`` is "nchw"; outputs keep their layout. With encoding "auto" a pruned
    weight is stored sparsely where the file shrinks by it; "sparse" refuses a model where none does.

    Raises:
        ConversionError: naming the operator, input or weight that this target cannot express.
        UsageError: for a precision, encoding or option this target does not have.
        ProofError: when the written file does not hold the weights bit by bit.
    """
    layouts = _file_layouts(request)
    TARGET.require()
    from pdp_export.converters import litert_graph, litert_lower, litert_sparse

    image_inputs = [index for index, item in enumerate(request.inputs) if layouts.get(item.name) == "NHWC"]
    model = litert_graph.parse(litert_lower.lower(program, request.inputs, request.outputs, image_inputs))
    weights = _edit(model, program, request, layouts)
    with atomic_path(path) as temporary:
        temporary.write_bytes(litert_graph.pack(model))
        litert_sparse.check_written(temporary.read_bytes(), weights)


def _file_layouts(request: ConvertRequest) -> dict[str, str]:
    """Return the layout of every image input as it will lie in the file."""
    request.check(TARGET)
    wanted = request.options.get("layout", _LAYOUTS[0])
    if wanted not in _LAYOUTS:
        raise UsageError(
            f"layout {wanted!r} does not exist{near_misses(str(wanted), _LAYOUTS)}",
            where="targets: litert: layout",
            hint=f"use one of: {', '.join(_LAYOUTS)}",
        )
    return {item.name: wanted.upper() if item.layout == "NCHW" else item.layout for item in request.inputs}


def _edit(
    model: Any, program: ExportedProgram, request: ConvertRequest, layouts: Mapping[str, str]
) -> dict[str, np.ndarray[Any, Any]]:
    """Rewrite the converted model in place; return its float weights by name, as they were before encoding."""
    from pdp_export.converters import litert_cleanup, litert_graph, litert_names, litert_sparse

    litert_cleanup.fold_transpose_into_mean(model)
    litert_cleanup.drop_unused(model)
    origin = litert_names.rename(model, program, [item.name for item in request.inputs], request.outputs)
    weights = {tensor.name.decode(): values for _, tensor, _, values in litert_graph.constants(model)}
    encoded = litert_sparse.encode_weights(model) if request.encoding != "dense" else 0
    if request.encoding == "sparse" and not encoded:
        raise ConversionError(
            "encoding 'sparse' was asked for, but no weight gets smaller by it",
            where="targets: litert: encoding",
            hint="prune more (about 60 % zeros or more in a layer), or use encoding: auto",
        )
    facts = {"metadata": dict(request.metadata), "layouts": dict(layouts), **origin}
    litert_graph.set_metadata(model, METADATA_NAME, json.dumps(facts, sort_keys=True).encode())
    litert_cleanup.drop_unused(model)
    return weights
