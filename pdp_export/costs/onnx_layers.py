"""A layer with its gathers as a small ONNX model between two thin neighbours, opened in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pdp_export.costs.sample import Sample, sample
from pdp_export.removal.costs import LayerWork

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

    from pdp_export.costs.timing import Run

_OPSET = 18
_THIN = 1


def onnx_run(work: LayerWork, threads: int) -> Run:
    """Return a function that runs the layer once in ONNX Runtime.

    Its neighbours are pointwise convolutions of one channel: ONNX Runtime keeps the tensors between convolutions in
    blocks of channels, and a gather has to undo that in front of it and to make it again behind, which is most of what
    it costs. The neighbours are the same for every option of a layer.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    model = onnx_layer(work)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    values = {given.name: random.standard_normal(given.shape, dtype=np.float32) for given in session.get_inputs()}
    return lambda: session.run(None, values)


def onnx_layer(work: LayerWork) -> ModelProto:
    """Return the model: neighbour, gather, layer, padding and gather, neighbour; a linear layer has no neighbours."""
    from onnx import TensorProto, helper

    parts = sample(work)
    nodes = _linear(work, parts) if work.kind == "linear" else _convolutional(work, parts)
    batch, *spatial = work.source
    shapes = {"x": [batch, work.available] if work.kind == "linear" else [batch, _THIN, *spatial]}
    if work.kind == "linear" and work.parts:
        shapes = {f"part{number}": [batch, width] for number, width in enumerate(work.parts)}
    given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in shapes.items()]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "layer", given, [result])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=9)


def _linear(work: LayerWork, parts: Sample) -> list[NodeProto]:
    from onnx import helper

    if work.parts:
        nodes = _summed(work, parts, lambda inputs, made: helper.make_node("Gemm", inputs, [made], transB=1))
    else:
        nodes, last = _selected(parts, "x", axis=1)
        stages, last = _stages(work, last)
        nodes += stages
        nodes += [_constant("weight", parts.weight.T), _constant("bias", parts.bias)]
        nodes.append(helper.make_node("Gemm", [last, "weight", "bias"], ["made"]))
    behind, last = _expanded(parts, "made", axis=1, rank=2)
    return [*nodes, *behind, helper.make_node("Identity", [last], ["y"])]


def _convolutional(work: LayerWork, parts: Sample) -> list[NodeProto]:
    from onnx import helper

    rank = len(work.kernel)
    after = np.full((_THIN, work.wanted, *[1] * rank), 0.5, np.float32)
    settings: dict[str, Any] = {
        "strides": work.stride, "dilations": work.dilation, "group": work.groups,
        "pads": [*(low for low, _ in parts.padding), *(high for _, high in parts.padding)],
    }  # fmt: skip
    if work.kind == "transposed":
        settings["output_padding"] = parts.output_padding
    kind = "ConvTranspose" if work.kind == "transposed" else "Conv"
    if work.parts:
        nodes = [node for number, width in enumerate(work.parts) for node in _neighbour(width, rank, f"part{number}")]
        nodes += _summed(work, parts, lambda inputs, made: helper.make_node(kind, inputs, [made], **settings))
    else:
        front, last = _selected(parts, "read", axis=1)
        stages, last = _stages(work, last)
        layer = helper.make_node(kind, [last, "weight", "bias"], ["made"], **settings)
        nodes = [*_neighbour(work.available, rank, "read"), *front, *stages]
        nodes += [_constant("weight", parts.weight), _constant("bias", parts.bias), layer]
    behind, last = _expanded(parts, "made", axis=1, rank=rank + 2)
    return [*nodes, *behind, _constant("after", after), helper.make_node("Conv", [last, "after"], ["y"])]


def _neighbour(channels: int, rank: int, result: str) -> list[NodeProto]:
    """Return what makes a tensor of so many channels out of the thin input."""
    from onnx import helper

    weight = np.full((channels, _THIN, *[1] * rank), 0.5, np.float32)
    return [_constant(f"{result}_weight", weight), helper.make_node("Conv", ["x", f"{result}_weight"], [result])]


def _summed(work: LayerWork, sample: Sample, layer: Callable[[list[str], str], NodeProto]) -> list[NodeProto]:
    """Return one layer on each of "part0", "part1", ..., and their sum, "made"."""
    from onnx import helper

    nodes, total = [_constant("bias", sample.bias)], ""
    weights = np.split(sample.weight, np.cumsum(work.parts)[:-1], axis=0 if work.kind == "transposed" else 1)
    for number, weight in enumerate(weights):
        term = f"term{number}" if total or len(weights) > 1 else "made"
        nodes.append(_constant(f"weight{number}", weight))
        nodes.append(layer([f"part{number}", f"weight{number}", *(["bias"] if not number else [])], term))
        if total:
            result = "made" if number == len(weights) - 1 else f"sum{number}"
            nodes.append(helper.make_node("Add", [total, term], [result]))
            term = result
        total = term
    return nodes


def _selected(parts: Sample, source: str, axis: int) -> tuple[list[NodeProto], str]:
    from onnx import helper

    if parts.selected is None:
        return [], source
    gather = helper.make_node("Gather", [source, "selected"], ["narrow"], axis=axis)
    return [_constant("selected", parts.selected), gather], "narrow"


def _stages(work: LayerWork, source: str) -> tuple[list[NodeProto], str]:
    """Return what a normalisation and an activation become in a file, on as many channels as the layer reads."""
    from onnx import helper

    nodes: list[NodeProto] = []
    ones = np.ones(work.columns, np.float32)
    for number, stage in enumerate(work.before):
        result = f"stage{number}"
        if stage == "norm":
            nodes.append(_constant(f"ones{number}", ones))
            nodes.append(helper.make_node("BatchNormalization", [source, *[f"ones{number}"] * 4], [result]))
        else:
            nodes.append(helper.make_node("Relu", [source], [result]))
        source = result
    return nodes, source


def _expanded(parts: Sample, source: str, axis: int, rank: int) -> tuple[list[NodeProto], str]:
    from onnx import helper

    if parts.expanded is None:
        return [], source
    pads = np.zeros(2 * rank, np.int64)
    pads[rank + axis] = 1
    return [
        _constant("pads", pads),
        _constant("expanded", parts.expanded),
        helper.make_node("Pad", [source, "pads"], ["padded"]),
        helper.make_node("Gather", ["padded", "expanded"], ["wide"], axis=axis),
    ], "wide"


def _constant(name: str, array: NDArray[Any]) -> NodeProto:
    from onnx import helper, numpy_helper

    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.ascontiguousarray(array), name))
