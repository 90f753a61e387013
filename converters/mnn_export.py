"""Target "mnn": one .mnn file for MNN (Android, iOS, x86), with sparse weights where a layer has enough zeros.

The way goes over a plain ONNX model and MNN's own converter, called inside of this process. Its command line script
(``mnnconvert``) is never used: that one installs a telemetry package with pip. The pipeline calls `convert` in a child
process, since the converter is native code that may crash; it also returns True when it failed, so only the file
counts.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from pdp_export.converters import mnn_layers, torch_onnx
from pdp_export.converters.mnn_layers import Layer
from pdp_export.converters.torch_onnx import export_plain_onnx
from pdp_export.errors import ConversionError
from pdp_export.files import atomic_path
from pdp_export.native_output import captured_stdout
from pdp_export.targets import ConvertRequest, Effect, Effects, Target

if TYPE_CHECKING:
    from torch.export import ExportedProgram

# MNN's AddSparseInfo pass: a layer with unstructured zeros is stored sparse above this share of them.
SPARSE_ABOVE = 0.6
OPSET = 18

TARGET = Target(
    name="mnn",
    title="MNN",
    suffix=".mnn",
    extra="mnn",
    modules=("MNN", "_tools", "flatbuffers"),
    precisions=("fp32",),
    encodings=("auto", "dense", "sparse"),
    effects={
        "unstructured": Effects(
            size=Effect(
                expected=True,
                why="convolution and linear layers with more than 60 % zeros store 8 bytes per nonzero instead of 4 "
                "per weight; transposed convolutions and embeddings stay dense",
            ),
            ram=Effect(
                expected=True, why="MNN keeps the nonzero weights of a sparse layer only, and no Winograd copies"
            ),
            speed=Effect(
                expected=None,
                why="sparse kernels (ARM, AVX2, AVX-512) for layers with more than 60 % zeros: 1x1 layers gain from "
                "about 75 %, 3x3 layers from about 85 %; below that their dense form (Winograd) is faster",
            ),
        ),
        "channel": Effects(
            size=Effect(expected=True, why="removed channels are not in the file"),
            ram=Effect(expected=True, why="weights and activations are smaller"),
            speed=Effect(expected=True, why="fewer multiplications; MNN packs channels by 4 (ARM) to 16 (AVX-512)"),
        ),
    },
    # The fast (Winograd) algorithm for dense 3x3 convolutions is good to about 3e-4 of max|y|.
    atol={"fp32": 1e-3},
    channel_alignment=4,  # measured on AVX-512: time grows evenly in steps of 4
    storage={"fp32": {"dense": (32, 0), "sparse": (0, 64)}},
)


def check(program: ExportedProgram, request: ConvertRequest, pattern: str) -> None:
    """Raise what `convert` would raise for names, axes and layers (see `registry.Converter.check`)."""
    request.check_pattern(TARGET, pattern)
    _layers(program, request)


def convert(program: ExportedProgram, path: Path, request: ConvertRequest) -> None:
    """Write `program` to `path` as .mnn, all in float32, inputs and outputs under the names of the request.

    "auto" stores each layer as MNN's own rule decides (`SPARSE_ABOVE`), "dense" stores zeros as they are, "sparse"
    refuses a model in which no layer qualifies. `request.metadata` and the names of the parameters travel in the
    file's ``bizCode`` text. The same program and request give the same bytes.

    Raises:
        UsageError: an encoding or a precision that this target does not have.
        ConversionError: an operator that ONNX or MNN lacks, a convolution over one or three axes, a dynamic axis
            that the program fixes, "sparse" without a layer that qualifies.
    """
    found = _layers(program, request)
    if request.encoding == "sparse":
        _require_sparse(found)
    model = export_plain_onnx(program, request, OPSET)
    label = mnn_layers.label(program, request, mnn_layers.renamed_like(model, found))
    with tempfile.TemporaryDirectory(prefix="pdp-export-mnn-") as folder:
        source = Path(folder) / "model.onnx"
        source.write_bytes(model.SerializeToString())
        data = _run_converter(source, label, sparse=request.encoding != "dense")
    _stamp(data)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def _layers(program: ExportedProgram, request: ConvertRequest) -> list[Layer]:
    request.check(TARGET)
    torch_onnx.check(program, request)
    return mnn_layers.layers(program, request.outputs)


def _require_sparse(found: list[Layer]) -> None:
    best = max(found, key=lambda layer: layer.zero_share, default=None)
    if best is None or best.zero_share <= SPARSE_ABOVE:
        text = f"the sparsest, {best.parameter!r}, has {best.zero_share:.1%}" if best else "the model has no such layer"
        raise ConversionError(
            f"encoding 'sparse' needs a layer with more than {SPARSE_ABOVE:.0%} zeros; {text}",
            where=best.parameter if best else None,
            hint="prune further, or use encoding auto",
        )


def _run_converter(source: Path, label: str, *, sparse: bool) -> bytearray:
    target = source.with_suffix(".mnn")
    arguments = ["mnnconvert", "-f", "ONNX", "--modelFile", str(source), "--MNNModel", str(target), "--bizCode", label]
    # By default subnormal weights become zeros, which would not be the user's model any more.
    arguments += ["--alignDenormalizedValue", "0", *(["--detectSparseSpeedUp"] if sparse else [])]
    with contextlib.chdir(source.parent), captured_stdout() as printed:  # it leaves a scratch file where it runs
        import _tools

        _tools.mnnconvert(arguments)
    if not target.exists() or not target.stat().st_size:
        raise _refused(printed)
    return bytearray(target.read_bytes())


def _refused(printed: list[str]) -> ConversionError:
    operators = [match[1] for line in printed if (match := re.search(r"Not Support:\s*(.+)", line))]
    what = f"it has no {', '.join(operators).replace('ONNX::', '').strip()}" if operators else "it wrote no file"
    return ConversionError(
        f"MNN cannot convert this model: {what}",
        where=", ".join(operators).strip() or None,
        hint="replace the operator in the model, or choose another target",
    )


def _stamp(data: bytearray) -> None:
    """Replace the random identifier that MNN writes by one made of the content: same model, same bytes."""
    from flatbuffers.number_types import UOffsetTFlags
    from flatbuffers.table import Table

    uuid_field, uuid_length = 11, 36
    root = Table(data, int.from_bytes(data[:4], "little"))
    offset = root.Offset(4 + 2 * uuid_field)
    if not offset:
        return
    start = root.Indirect(root.Pos + offset)
    if root.Get(UOffsetTFlags, start) != uuid_length:
        return
    place = slice(start + 4, start + 4 + uuid_length)
    data[place] = bytes(uuid_length)
    data[place] = str(uuid.UUID(bytes=hashlib.sha256(data).digest()[:16], version=4)).encode()
