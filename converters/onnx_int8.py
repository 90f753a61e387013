"""int8 by ONNX Runtime's own quantizer: static QDQ, weights symmetric per output channel, zeros stay zeros.

Calibration runs the float model on real samples and takes the smallest and largest value of every activation. The order
matters: quantizers need plain initializers, so the sparse encoding comes afterwards.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pdp_export.errors import ConversionError, FileError, UsageError

if TYPE_CHECKING:
    from onnx import ModelProto

Array = np.ndarray[Any, Any]

BATCH = 16
"""Samples per calibration run where the batch is dynamic."""
_SUFFIX = "_quantized"


def samples(path: str | None) -> dict[str, Array]:
    """Return the calibration samples by input name from a safetensors file.

    Raises:
        UsageError: there is no such file: int8 needs real samples.
        FileError: it is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if path is None:
        raise UsageError(
            "precision int8 needs calibration data: real samples that show the range of every activation",
            where="targets: onnx: precision",
            hint='a run takes them from the loader "calibration" (or "train") of data.factory; for `convert` give '
            "--calibration samples.npz",
        )
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise FileError(f"the calibration samples cannot be read: {error}", where=Path(path).name) from error


def quantize(model: ModelProto, calibration: Mapping[str, Array], *, reduce_range: bool) -> ModelProto:
    """Return the model with int8 weights and activations as QuantizeLinear and DequantizeLinear pairs.

    Weights keep their names. The model-level metadata is kept, that of nodes is not.

    Args:
        model: A float32 model with plain initializers.
        calibration: Real samples by input name, batch first.
        reduce_range: Use 7 bits for weights: on x86 CPUs without VNNI, ONNX Runtime sums two products of 8 bits each
            in 16 bits, which saturates with 8-bit weights; ARM and VNNI do not need it.

    Raises:
        UsageError: the samples do not belong to the inputs.
        ConversionError: the quantizer refuses the model, or finds nothing to quantize.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    reader = _Reader(model, calibration)
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it recommends a preprocessing that has been done already
    try:
        with tempfile.TemporaryDirectory(prefix="pdp-export-") as folder:
            written = Path(folder) / "int8.onnx"
            quantize_static(
                onnx.shape_inference.infer_shapes(model),
                written,
                reader,
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=reduce_range,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={
                    "WeightSymmetric": True,
                    "ActivationSymmetric": False,
                    "TensorQuantOverrides": {
                        name: [{"quant_type": QuantType.QInt8, "symmetric": True}] for name in _tables(model)
                    },
                },
            )
            quantized: ModelProto = onnx.ModelProto.FromString(written.read_bytes())
    except (ValueError, RuntimeError, AttributeError, KeyError, NotImplementedError) as error:
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConversionError(
            f"ONNX Runtime's quantizer refuses the model: {text}",
            where="targets: onnx: precision",
            hint="use precision fp32 or fp16",
        ) from error
    finally:
        root.setLevel(level)
    _restore_names(quantized)
    if not any(node.op_type == "DequantizeLinear" for node in quantized.graph.node):
        raise ConversionError("the model has no layer that int8 applies to", where="targets: onnx: precision")
    return quantized


def _tables(model: ModelProto) -> set[str]:
    """Return the weights that Gather reads (embeddings): the quantizer takes them for activations with a zero point."""
    weights = {item.name for item in model.graph.initializer if item.data_type == item.FLOAT and len(item.dims) > 1}
    return weights & {node.input[0] for node in model.graph.node if node.op_type == "Gather"}


class _Reader:
    """Hands the samples to the quantizer, some at a time."""

    def __init__(self, model: ModelProto, calibration: Mapping[str, Array]) -> None:
        constants = {item.name for item in model.graph.initializer}
        inputs = {item.name: item for item in model.graph.input if item.name not in constants}
        if set(inputs) != set(calibration) or not calibration:
            raise UsageError(
                f"the calibration samples have the inputs {sorted(calibration)}, the model has {sorted(inputs)}",
                where="calibration",
            )
        counts = {len(array) for array in calibration.values()}
        if len(counts) != 1 or 0 in counts:
            raise UsageError(
                f"the inputs of the calibration data have {sorted(counts)} samples; all need the same number, at least "
                "one",
                where="calibration",
            )
        first = next(iter(inputs.values())).type.tensor_type.shape.dim[0]
        self._size = first.dim_value if first.HasField("dim_value") else BATCH
        self._batches = self._split(calibration, counts.pop())

    def get_next(self) -> dict[str, Array] | None:
        """Return the next batch, or None at the end."""
        return next(self._batches, None)

    def _split(self, calibration: Mapping[str, Array], count: int) -> Iterator[dict[str, Array]]:
        for start in range(0, count, self._size):
            index = np.arange(start, start + self._size) % count if count < start + self._size else None
            yield {
                name: array[start : start + self._size] if index is None else array[index]
                for name, array in calibration.items()
            }


def _restore_names(model: ModelProto) -> None:
    """Give the quantized weights the names of the float ones, which are gone."""
    own = [item.name for item in model.graph.initializer]
    taken = {*own, *(name for node in model.graph.node for name in node.output)}
    names = {name: short for name in own if (short := name.removesuffix(_SUFFIX)) not in taken}
    for item in model.graph.initializer:
        item.name = names.get(item.name, item.name)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
