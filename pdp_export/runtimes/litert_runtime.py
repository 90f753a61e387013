"""Opens .tflite files again: what they hold, their weights in PyTorch layout, and running them with LiteRT."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any, cast

import numpy as np

from pdp_export.encoding.tflite_layout import WEIGHT_INPUT, to_torch
from pdp_export.errors import DataError, FileError, NotRunnableError
from pdp_export.results import Execution, FileFacts, Layout, StoredWeight, TensorFacts, TensorSpec
from pdp_export.runtimes import tflite_file
from pdp_export.runtimes.tflite_file import Graph, Operator, Tensor, TfliteFile
from pdp_export.runtimes.xnnpack_sparse import sparse_path

Array = np.ndarray[Any, Any]

NAME = "litert"
_METADATA_NAME = "pdp_export"
_IMAGE_RANK = 4
_PASS_THROUGH = ("DENSIFY", "DEQUANTIZE")


def version() -> str:
    """Return the version of ai-edge-litert, or "not installed"."""
    try:
        return package_version("ai-edge-litert")
    except PackageNotFoundError:
        return "not installed"


def execution() -> Execution:
    """Return that LiteRT itself runs files here."""
    return Execution(by=f"LiteRT {version()}")


def describe(path: Path) -> FileFacts:
    """Return what a .tflite file holds, read from its own bytes without running it.

    Raises:
        FileError: for a truncated, damaged or foreign file.
    """
    file = tflite_file.read(path)
    ours = _own_metadata(file)
    graph = file.graphs[0]
    constants = [tensor for item in file.graphs for tensor in item.tensors if tensor.encoding]
    names = Counter(operator.name for item in file.graphs for operator in item.operators)
    path_facts = sparse_path(graph)
    reachable = "can be used on ARM and in the browser, not on x86" if path_facts.holds else "are not used"
    return FileFacts(
        format=NAME,
        file_bytes=path.stat().st_size,
        inputs=_specs(graph, graph.inputs, ours["layouts"]),
        outputs=_specs(graph, graph.outputs, {}),
        tensors=tuple(_facts(tensor) for tensor in constants),
        operators=dict(sorted(names.items())),
        metadata={**_texts(file), **ours["metadata"]},
        notes=(f"XNNPACK's sparse kernels {reachable}: {path_facts.reason}",),
    )


def weights(path: Path) -> list[StoredWeight]:
    """Return every constant of rank >= 2 that a layer reads as its weight, and every other float one, decoded.

    A weight that the converter merged with an equal one is returned once per name.

    Raises:
        FileError: for a truncated, damaged or foreign file.
    """
    file = tflite_file.read(path)
    ours = _own_metadata(file)
    further: dict[str, list[str]] = {}
    for alias, first in ours["aliases"].items():
        further.setdefault(first, []).append(alias)
    found = []
    for graph in file.graphs:
        layers = _layers(graph)
        for number, tensor in enumerate(graph.tensors):
            layer = layers.get(number, "")
            if tensor.values is None or tensor.values.ndim <= 1 or not (layer or tensor.values.dtype.kind == "f"):
                continue
            values = to_torch(layer, tensor.values)
            for name in (tensor.name, *further.get(tensor.name, [])):
                shaped = _as_in_program(values, name in ours["transposed"], ours["shapes"].get(name, ""))
                found.append(StoredWeight(name, np.ascontiguousarray(shaped), tensor.encoding))
    return found


def open_session(path: Path, threads: int = 1) -> LitertSession:
    """Open the file with LiteRT and its default XNNPACK delegate.

    Raises:
        NotRunnableError: where ai-edge-litert is not installed, or LiteRT lacks an operator of the file.
        FileError: for a truncated, damaged or foreign file.
    """
    return LitertSession(path, threads)


class LitertSession:
    """A .tflite file that is loaded and ready to run. Shapes are fixed; arrays lie as `inputs` says."""

    def __init__(self, path: Path, threads: int) -> None:
        file = tflite_file.read(path)
        graph = file.graphs[0]
        self.inputs: Sequence[TensorSpec] = _specs(graph, graph.inputs, _own_metadata(file)["layouts"])
        self.outputs: Sequence[TensorSpec] = _specs(graph, graph.outputs, {})
        self._interpreter = _interpreter(path, threads)
        # The interpreter keeps the file's own tensor numbers for inputs and outputs.
        self._input_numbers = dict(graph.inputs)
        self._output_numbers = dict(graph.outputs)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run one batch of exactly the shapes in `inputs` and return every output by name, as fresh arrays.

        Raises:
            DataError: for a missing or unknown name, another shape, or a dtype that does not convert safely.
        """
        if set(inputs) != set(self._input_numbers):
            raise DataError(
                f"inputs {', '.join(sorted(inputs)) or '(none)'} were given",
                where="inputs",
                hint=f"give exactly: {', '.join(self._input_numbers)}",
            )
        for spec in self.inputs:
            self._interpreter.set_tensor(self._input_numbers[spec.name], _fitted(spec, inputs[spec.name]))
        self._interpreter.invoke()
        return {name: self._interpreter.get_tensor(number) for name, number in self._output_numbers.items()}


def _interpreter(path: Path, threads: int) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise NotRunnableError(
            "ai-edge-litert is not installed on this machine",
            where=path.name,
            hint="pip install 'pdp-export[litert]'",
        ) from error
    try:
        interpreter = Interpreter(model_path=str(path), num_threads=threads)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        message = str(error).splitlines()[0]
        if "unresolved" in str(error).lower() or "custom op" in str(error).lower():
            raise NotRunnableError(f"LiteRT cannot run the file: {message}", where=path.name) from error
        raise FileError(
            f"LiteRT refuses {path.name}: {message}", where=str(path), hint="write the file again"
        ) from error
    return interpreter


def _fitted(spec: TensorSpec, values: Array) -> Array:
    if values.shape != spec.shape:
        raise DataError(
            f"input {spec.name!r} has shape {values.shape}, the file takes {spec.shape} ({spec.layout})",
            where=spec.name,
            hint="a .tflite file written here has fixed shapes: run one batch of this size at a time",
        )
    if not np.can_cast(values.dtype, spec.dtype, casting="same_kind"):
        raise DataError(f"input {spec.name!r} is {values.dtype}, the file takes {spec.dtype}", where=spec.name)
    return np.ascontiguousarray(values, dtype=spec.dtype)


def _specs(graph: Graph, public: Sequence[tuple[str, int]], layouts: Mapping[str, str]) -> tuple[TensorSpec, ...]:
    specs = []
    for name, number in public:
        tensor = graph.tensors[number]
        layout = layouts.get(name) or _guess_layout(graph, number)
        specs.append(TensorSpec(name=name, shape=tensor.shape, dtype=tensor.dtype, layout=cast(Layout, layout)))
    return tuple(specs)


def _guess_layout(graph: Graph, number: int) -> str:
    """Say how a 4-D tensor lies by the first operator that reads it; layers of .tflite files always read NHWC."""
    reader = next((item for item in graph.operators if number in item.inputs[:1]), None)
    if reader is not None and reader.name == "PAD":
        return _guess_layout(graph, reader.outputs[0])
    if reader is None or len(graph.tensors[number].shape) != _IMAGE_RANK:
        return "any"
    if reader.name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        return "NHWC"
    order = graph.tensors[reader.inputs[1]].values if reader.name == "TRANSPOSE" else None
    return "NCHW" if order is not None and order.ravel().tolist() == [0, 2, 3, 1] else "any"


def _facts(tensor: Tensor) -> TensorFacts:
    zeros = 0 if tensor.values is None else int(np.count_nonzero(tensor.values == 0))
    return TensorFacts(
        name=tensor.name,
        shape=tensor.shape,
        dtype=tensor.dtype,
        stored_dtype=tensor.dtype,
        encoding=tensor.encoding,
        zeros=zeros,
        elements=int(np.prod(tensor.shape, dtype=np.int64)),
        stored_bytes=tensor.stored_bytes,
    )


def _layers(graph: Graph) -> dict[int, str]:
    """Return, for every tensor that is a weight, the operator that reads it, through DENSIFY and DEQUANTIZE."""
    found: dict[int, str] = {}
    makers: dict[int, Operator] = {number: item for item in graph.operators for number in item.outputs}
    for operator in graph.operators:
        position = WEIGHT_INPUT.get(operator.name)
        if position is None or position >= len(operator.inputs):
            continue
        number = operator.inputs[position]
        while number in makers and makers[number].name in _PASS_THROUGH:
            number = makers[number].inputs[0]
        found.setdefault(number, operator.name)
    return found


def _as_in_program(values: Array, transposed: bool, shape: str) -> Array:
    """Undo what the converter noted down: a transposed matrix, or axes of other number or order of ones."""
    if transposed:
        return values.T
    try:
        return values.reshape(json.loads(shape)) if shape else values
    except (ValueError, TypeError):
        return values


def _own_metadata(file: TfliteFile) -> dict[str, Any]:
    """Return what our converter wrote; empty parts for files of other origin."""
    try:
        record = json.loads(file.metadata.get(_METADATA_NAME, b"{}"))
    except ValueError:
        record = {}
    record = record if isinstance(record, dict) else {}
    parts = {part: _strings(record.get(part)) for part in ("metadata", "layouts", "aliases", "shapes")}
    layouts = {name: layout for name, layout in parts["layouts"].items() if layout in ("NCHW", "NHWC", "any")}
    transposed = record.get("transposed")
    return {**parts, "layouts": layouts, "transposed": transposed if isinstance(transposed, list) else []}


def _strings(part: Any) -> dict[str, str]:
    items = part.items() if isinstance(part, dict) else ()
    return {name: value for name, value in items if isinstance(name, str) and isinstance(value, str)}


def _texts(file: TfliteFile) -> dict[str, str]:
    others = {name: content for name, content in file.metadata.items() if name != _METADATA_NAME}
    texts = {name: content.rstrip(b"\0").decode("utf-8", "replace") for name, content in others.items()}
    return {name: text for name, text in texts.items() if text.isprintable()}
