"""Writes .ort files, the only form that ONNX Runtime's minimal builds for phones read, with sparse weights kept sparse.

ONNX Runtime folds the decoders of an .onnx file when it writes .ort. It keeps a weight sparse that is a
``sparse_initializer`` with coordinates, and stores the positions in 16 or 32 bits itself; no checker accepts those as
ONNX, so that form never leaves this module as .onnx.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pdp_export.errors import ConversionError, ProofError
from pdp_export.runtimes.onnx_expand import expand_model
from pdp_export.runtimes.onnx_file import MAX_FILE_BYTES, read
from pdp_export.runtimes.onnx_runtime import OnnxSession, open_session

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

Array = np.ndarray[Any, Any]

_POSITION_BYTES = 4
_TOLERANCE = 1e-4
_INT8_TOLERANCE = 0.05
"""Of max|y|: kernels for ARM round sums of integers elsewhere, which moves single answers by a few steps."""


def convert(path: Path, output: Path, config: Path) -> int:
    """Write the .onnx file `path` as .ort to `output`, and the operators and types that it needs to `config`.

    Returns:
        How many weights the .ort file keeps sparse: those where coordinates are smaller than values.

    Raises:
        FileError: for a truncated, damaged, foreign or self-contradicting file.
        ConversionError: ONNX Runtime refuses to convert it.
        ProofError: the .ort file answers otherwise than the .onnx file.
    """
    model = read(path).model
    expand_model(model, path)
    sparse = _coordinates(model)
    size = sum(len(item.raw_data) for item in model.graph.initializer)
    if size > MAX_FILE_BYTES:
        raise ConversionError(f"{size} bytes of dense weights; .ort holds less than 2 GiB", where=path.name)
    with tempfile.TemporaryDirectory(prefix="pdp-export-") as folder:
        source = Path(folder) / "model.onnx"
        source.write_bytes(model.SerializeToString(deterministic=True))
        _run(source)
        output.write_bytes((Path(folder) / "model.ort").read_bytes())
        (written,) = Path(folder).glob("*.config")
        config.write_text(_without_comments(written.read_text(encoding="utf-8")), encoding="utf-8")
    quantized = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    _prove(open_session(path), output, _INT8_TOLERANCE if quantized else _TOLERANCE)
    return sparse


def convert_in_child(path: str, output: str, config: str) -> int:
    """Entry point of the child process."""
    return convert(Path(path), Path(output), Path(config))


def _coordinates(model: ModelProto) -> int:
    """Turn weights into sparse_initializer where that is smaller; return how many."""
    from onnx import helper, numpy_helper

    kept: list[TensorProto] = []
    graph = model.graph
    for item in graph.initializer:
        values = numpy_helper.to_array(item)
        places = np.flatnonzero(values)
        width = values.dtype.itemsize
        worthwhile = places.size * (width + _POSITION_BYTES) < values.nbytes
        if values.ndim > 1 and values.dtype == np.float32 and places.size and worthwhile:
            stored = numpy_helper.from_array(values.ravel()[places], item.name)
            positions = numpy_helper.from_array(places.astype(np.int64))
            graph.sparse_initializer.append(helper.make_sparse_tensor(stored, positions, list(item.dims)))
        else:
            kept.append(item)
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return len(graph.sparse_initializer)


def _run(source: Path) -> None:
    from onnxruntime.tools.convert_onnx_models_to_ort import OptimizationStyle, convert_onnx_models_to_ort

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            convert_onnx_models_to_ort(
                source,
                optimization_styles=[OptimizationStyle.Fixed],
                target_platform="arm",
                enable_type_reduction=True,
            )
    except Exception as error:  # the tool raises whatever its many parts do
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConversionError(f"ONNX Runtime cannot write {source.stem}.ort: {text}", where=source.name) from error


def _without_comments(text: str) -> str:
    """Drop the comment lines: they hold paths of this machine."""
    return "".join(f"{line}\n" for line in text.splitlines() if line and not line.startswith("#"))


def _prove(expected: OnnxSession, output: Path, tolerance: float) -> None:
    """Compare both files on random inputs; the optimizations of .ort for ARM may round differently."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(output.read_bytes(), options, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    inputs = {}
    for spec in expected.inputs:
        values = generator.normal(size=spec.shape) if np.dtype(spec.dtype).kind == "f" else np.zeros(spec.shape)
        inputs[spec.name] = values.astype(spec.dtype)
    answers = session.run([spec.name for spec in expected.outputs], inputs)
    for (name, right), found in zip(expected.run(inputs).items(), answers, strict=True):
        off, scale = float(np.abs(right - found).max(initial=0)), float(np.abs(right).max(initial=0))
        if not off <= tolerance * scale:
            raise ProofError(f"output {name!r} of the .ort file differs by {off:.3g} of {scale:.3g}", where=output.name)
