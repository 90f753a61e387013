"""Target "onnx": one portable .onnx file with sparse weights, for ONNX Runtime and whatever else reads ONNX.

The order of the steps is the design: torch's own optimizer runs first, then the quantizer, and the weights are encoded
last (optimizers and quantizers would undo the encoding). The proof reads the bytes that go to the disk.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pdp_export import onnx_external
from pdp_export.converters import onnx_int8, onnx_sparse, onnx_weights, torch_onnx
from pdp_export.converters.torch_onnx import PROTOBUF_LIMIT, export_plain_onnx
from pdp_export.encoding.choose import OBJECTIVES
from pdp_export.encoding.codecs import FAMILIES, SPARSE_KEY
from pdp_export.errors import ConversionError, UsageError, near_misses
from pdp_export.files import atomic_path
from pdp_export.targets import ConvertRequest, Effect, Effects, Target

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto
    from torch.export import ExportedProgram

DEFAULT_OPSET = 18
OPSETS = range(18, 24)


def _storage(bits: int) -> dict[str, tuple[float, float]]:
    """Return the bits per weight and per nonzero that the encodings need, for values of that many bits.

    Those of gap, rice, bitmask2 and nm are straight lines near their curves between 50 and 98 % random zeros.
    """
    return {
        "dense": (bits, 0), "gap": (0.2, bits + 4.5), "gap8": (0, bits + 8), "bitmask": (1, bits),
        "bitmask2": (0.4, bits + 3), "rice": (0.1, bits + 3.7), "nm": (0, bits + 2),
    }  # fmt: skip


TARGET = Target(
    name="onnx",
    title="ONNX Runtime",
    suffix=".onnx",
    extra=None,
    modules=("onnx", "onnxscript", "onnxruntime"),
    precisions=("fp32", "fp16", "int8"),
    encodings=("auto", "dense", *FAMILIES),
    encodings_elsewhere={
        "coo": "only .ort files have it: write .onnx with encoding auto, then run pdp-export convert --ort FILE.onnx"
    },
    effects={
        "unstructured": Effects(
            size=Effect(expected=True, why="zeros are not stored: short gaps or masks, decoded by standard operators"),
            ram=Effect(expected=False, why="ONNX Runtime unpacks the weights when it loads the file"),
            speed=Effect(expected=False, why="ONNX Runtime has no kernel that skips single zeros"),
        ),
        "channel": Effects(
            size=Effect(expected=True, why="removed channels are not in the file"),
            ram=Effect(expected=True, why="weights and activations are smaller"),
            speed=Effect(expected=True, why="fewer multiplications, in steps of 16 channels on CPUs with AVX-512"),
        ),
    },
    atol={"fp32": 1e-4, "fp16": 1e-2, "int8": 0.2},
    channel_alignment=16,
    storage={precision: _storage(bits) for precision, bits in (("fp32", 32), ("fp16", 16), ("int8", 8))},
    options={
        "opset": f"ONNX operator set, {OPSETS[0]} to {OPSETS[-1]} (default {DEFAULT_OPSET})",
        "encode_for": "what encoding auto looks for: load (default) or size",
        "reduce_range": "int8: 7 bits for weights, for x86 CPUs without VNNI (default false)",
    },
)

ORT = TARGET.model_copy(update={
    "name": "ort", "suffix": ".ort", "encodings": ("dense", "coo"),
    "storage": {"fp32": {"dense": (32, 0), "coo": (0, 64)}},
})  # fmt: skip
"""What `convert --ort` makes of an .onnx file: decoders would be folded there, coordinates stay."""


def check(program: ExportedProgram, request: ConvertRequest, pattern: str) -> None:
    """Raise what `convert` would raise for the options, weights and axes (see `registry.Converter.check`)."""
    _opset(request)
    _objective(request)
    _reduce_range(request)
    request.check_pattern(TARGET, pattern)
    for _ in onnx_weights.float_parameters(program):
        pass
    torch_onnx.check(program, request, _weight_limit(request))
    _axis_names(program, request)


def convert(program: ExportedProgram, path: Path, request: ConvertRequest) -> None:
    """Write `program` to `path` as ONNX with the weights inside, or beside it where one file cannot hold them.

    The same program and request give the same bytes. The file carries `request.metadata` and nothing of this machine.

    Raises:
        UsageError: an option, an encoding or a precision that this target does not have; int8 without samples.
        ConversionError: an operator that ONNX lacks, a parametrized or non-float32 weight, a dynamic axis that the
            program fixes, an opset that the exporter did not reach, int8 for a model of 2 GiB or more.
        ProofError: the graph lost zeros of a weight.
    """
    opset, objective, reduce_range = _opset(request), _objective(request), _reduce_range(request)
    weights = onnx_weights.parameters(program)
    model = export_plain_onnx(program, request, opset, _weight_limit(request))
    _strip(model)
    _rename_symbols(model.graph, _axis_names(program, request))
    onnx_weights.restore_names(model, weights)
    if request.precision == "int8":
        model = onnx_int8.quantize(model, onnx_int8.samples(request.calibration), reduce_range=reduce_range)
        _strip(model)
    plan = onnx_sparse.encode(model, request.encoding, objective, half=request.precision == "fp16")
    sparse = sum(code.encoding != "dense" for code in plan.values())
    for key, value in sorted({**request.metadata, **({SPARSE_KEY: str(sparse)} if sparse else {})}.items()):
        model.metadata_props.add(key=key, value=value)
    with atomic_path(path) as temporary:
        onnx_external.write(model, temporary)
        written, light = onnx_external.read_back(temporary)
        _check(light, opset)
        stored = onnx_weights.constants(written) | onnx_sparse.decode(written, plan)
        onnx_weights.prove_zeros(weights, stored)


def _weight_limit(request: ConvertRequest) -> int:
    """Return how many bytes of weights can be written: the quantizer works on one file."""
    return PROTOBUF_LIMIT if request.precision == "int8" else sys.maxsize


def _opset(request: ConvertRequest) -> int:
    request.check(TARGET)
    value = request.options.get("opset", DEFAULT_OPSET)
    if isinstance(value, bool) or not isinstance(value, int) or value not in OPSETS:
        raise UsageError(
            f"opset {value!r} is not one of {OPSETS[0]} to {OPSETS[-1]}",
            where="targets: onnx: opset",
            hint=f"leave it out for {DEFAULT_OPSET}; torch's exporter does not write older ones",
        )
    return value


def _objective(request: ConvertRequest) -> str:
    value = request.options.get("encode_for", OBJECTIVES[0])
    if value not in OBJECTIVES:
        raise UsageError(
            f"encode_for {value!r} is not one of {', '.join(OBJECTIVES)}{near_misses(str(value), OBJECTIVES)}",
            where="targets: onnx: encode_for",
        )
    return str(value)


def _reduce_range(request: ConvertRequest) -> bool:
    value = request.options.get("reduce_range", False)
    if not isinstance(value, bool):
        raise UsageError(f"reduce_range {value!r} is not true or false", where="targets: onnx: reduce_range")
    return value


def _strip(model: ModelProto) -> None:
    """Remove stack traces, source lines and paths of this machine, and shapes that every reader infers again."""
    for graph in onnx_weights.subgraphs(model.graph):
        for item in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
            item.ClearField("metadata_props")
            item.ClearField("doc_string")
        del graph.value_info[:]
    model.ClearField("metadata_props")


def _axis_names(program: ExportedProgram, request: ConvertRequest) -> dict[str, str]:
    """Return the names that the request gives the symbols of the captured program (``s77``)."""
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    names: dict[str, str] = {}
    for spec, name in zip(request.inputs, program.graph_signature.user_inputs, strict=True):
        shape = nodes[str(name)].meta["val"].shape
        for axis, wanted in spec.dynamic.items():
            symbol = str(shape[axis])
            if names.setdefault(symbol, wanted) != wanted:
                raise UsageError(
                    f"axis {axis} of input {spec.name!r} is named {wanted!r}, but the program ties it to an axis named "
                    f"{names[symbol]!r}",
                    where=spec.name,
                    hint="give both axes the same name",
                )
    return names


def _rename_symbols(graph: GraphProto, names: Mapping[str, str]) -> None:
    """Rename inside expressions too: an output axis may be ``2*s77``."""
    for value in (*graph.input, *graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_param = re.sub(r"\w+", lambda m: names.get(m[0], m[0]), dimension.dim_param)


def _check(model: ModelProto, opset: int) -> None:
    """Let onnx check what was written in full, and compare the opset with what was asked."""
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ConversionError(f"the exported graph is not valid ONNX: {str(error).splitlines()[0]}") from error
    reached = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}.get("ai.onnx")
    if reached != opset:
        raise ConversionError(
            f"asked for opset {opset}, but torch's exporter wrote {reached}",
            where="targets: onnx: opset",
            hint=f"leave it out for {DEFAULT_OPSET}",
        )
