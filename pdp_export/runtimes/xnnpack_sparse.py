"""Says whether XNNPACK, LiteRT's CPU engine, can run a .tflite graph with sparse kernels, and why not.

XNNPACK switches connected parts of a network, from a stem to a global mean, to channel-first layout and runs their
1x1 convolutions as sparse matrix products. The conditions here follow its `xnn_subgraph_rewrite_for_nchw`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pdp_export.runtimes.tflite_file import Graph, Operator

ZERO_SHARE = 2 / 3
_UNARY = frozenset(
    [
        "ABS",
        "NEG",
        "FLOOR",
        "CEIL",
        "ROUND",
        "SQUARE",
        "SQRT",
        "RSQRT",
        "EXP",
        "TANH",
        "LOGISTIC",
        "RELU",
        "RELU6",
        "RELU_N1_TO_1",
        "RELU_0_TO_1",
        "HARD_SWISH",
        "ELU",
        "LEAKY_RELU",
        "GELU",
    ]
)
_IMAGE_RANK = 4
_SAME = 0  # the schema's code for padding SAME


@dataclass(frozen=True)
class SparsePath:
    """Whether the file meets the conditions, the reason, and the zeros among the weights that decide.

    The processor has a say, too: ARM, RISC-V and WebAssembly have the sparse kernels, x86 with AVX never uses them.
    """

    holds: bool
    reason: str
    zeros: int = 0
    elements: int = 0


@dataclass
class _Cluster:
    """Operators that would change layout together; `problem` is the first thing that forbids it."""

    operators: list[int] = field(default_factory=list)
    problem: str = ""
    zeros: int = 0
    elements: int = 0


def sparse_path(graph: Graph) -> SparsePath:
    """Judge the part of `graph` with the most 1x1 weights. Counts linear layers behind its mean, as XNNPACK may."""
    if not any(operator.name == "DENSIFY" for operator in graph.operators):
        return SparsePath(False, "no weight is stored as a sparse tensor with DENSIFY")
    clusters = _Layout(graph).clusters()
    best = max(clusters, key=lambda cluster: cluster.elements, default=_Cluster())
    if not best.elements:
        return SparsePath(False, "no 1x1 convolution lies between a 3x3 stride-2 RGB stem and a global mean")
    if best.problem:
        return SparsePath(False, best.problem, best.zeros, best.elements)
    share = f"{100 * best.zeros / best.elements:.1f} % of the 1x1 and linear weights are zero"
    holds = best.zeros > ZERO_SHARE * best.elements
    return SparsePath(holds, share if holds else f"{share}, more than 66.7 % are needed", best.zeros, best.elements)


class _Layout:
    """The graph as XNNPACK sees it: a PAD belongs to the layer behind it, DENSIFY to the weight."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.makers = {number: index for index, item in enumerate(graph.operators) for number in item.outputs}
        self.readers: dict[int, list[int]] = {}
        for index, operator in enumerate(graph.operators):
            for number in operator.inputs:
                self.readers.setdefault(number, []).append(index)
        self.kinds = [self._kind(operator) for operator in graph.operators]
        self.outputs = {number for _, number in graph.outputs}

    def clusters(self) -> list[_Cluster]:
        """Return the connected parts that end in a global mean, with their problems and their 1x1 weights."""
        leader = list(range(len(self.graph.operators)))
        for index, kind in enumerate(self.kinds):
            for source in self._sources(index) if kind in ("inner", "exit") else ():
                if source is not None and self.kinds[source] in ("entry", "inner", "exit"):
                    old, new = leader[source], leader[index]
                    leader = [new if item == old else item for item in leader]
        found: dict[int, _Cluster] = {}
        for index, kind in enumerate(self.kinds):
            if kind and (kind != "exit" or self._sources(index)):
                found.setdefault(leader[index], _Cluster()).operators.append(index)
        parts = [part for part in found.values() if any(self.kinds[index] == "exit" for index in part.operators)]
        for part in parts:
            part.problem = next((problem for index in part.operators if (problem := self._problem(index))), "")
            for weight in self._weights(part.operators):
                part.zeros += int(np.count_nonzero(weight == 0))
                part.elements += weight.size
        return parts

    def _problem(self, index: int) -> str:
        """Return why this operator's cluster cannot change layout, or nothing."""
        if self.kinds[index] == "entry":
            return self._leak(index)
        name = self._label(index)
        for source, number in zip(self._sources(index), self._images(index), strict=True):
            if source is None or self.kinds[source] is None:
                return (
                    f"{name} reads {'the input' if source is None else self._label(source)}, which stays channel-last"
                )
            for reader in self._layers_reading(number):
                if self.kinds[reader] not in ("inner", "exit"):
                    return f"{self._label(reader)} stays channel-last and reads the same tensor as {name}"
        return self._leak(index)

    def _leak(self, index: int) -> str:
        """Only an exit may hand its result to the rest of the network."""
        for number in self.graph.operators[index].outputs if self.kinds[index] != "exit" else ():
            if number in self.outputs:
                return f"{self._label(index)} inside the sparse part is also an output"
            if any(self.kinds[reader] not in ("inner", "exit") for reader in self._layers_reading(number)):
                return f"{self._label(index)} leaves the sparse part other than by a global mean"
        return ""

    def _label(self, index: int) -> str:
        operator = self.graph.operators[index]
        return " ".join([operator.name, *(repr(self.graph.tensors[number].name) for number in operator.outputs[:1])])

    def _images(self, index: int) -> list[int]:
        """Return the computed 4-D tensors an operator reads, from before its own PAD."""
        operator = self.graph.operators[index]
        numbers = [self._before_pad(operator), *operator.inputs[1:]] if operator.inputs else []
        return [number for number in numbers if number >= 0 and self._is_image(number)]

    def _is_image(self, number: int) -> bool:
        tensor, maker = self.graph.tensors[number], self.makers.get(number)
        densified = maker is not None and self.graph.operators[maker].name == "DENSIFY"
        return tensor.values is None and len(tensor.shape) == _IMAGE_RANK and not densified

    def _sources(self, index: int) -> list[int | None]:
        return [self.makers.get(number) for number in self._images(index)]

    def _layers_reading(self, number: int) -> Iterator[int]:
        for reader in self.readers.get(number, []):
            operator = self.graph.operators[reader]
            if operator.name == "PAD" and self._pad_belongs_to_layer(operator):
                yield from self.readers[operator.outputs[0]]
            else:
                yield reader

    def _pad_belongs_to_layer(self, pad: Operator) -> bool:
        readers = [self.graph.operators[index] for index in self.readers.get(pad.outputs[0], [])]
        return bool(readers) and all(
            reader.name in ("CONV_2D", "DEPTHWISE_CONV_2D") and reader.options.get("padding") != _SAME
            for reader in readers
        )

    def _before_pad(self, operator: Operator) -> int:
        maker = self.makers.get(operator.inputs[0])
        pad = self.graph.operators[maker] if maker is not None else None
        return (
            pad.inputs[0] if pad is not None and pad.name == "PAD" and self._is_padded(operator) else operator.inputs[0]
        )

    def _is_padded(self, operator: Operator) -> bool:
        return operator.name in ("CONV_2D", "DEPTHWISE_CONV_2D") and operator.options.get("padding") != _SAME

    def _kind(self, operator: Operator) -> str | None:
        """Return "entry", "inner" or "exit" for an operator that can be part of a cluster."""
        if operator.name == "CONV_2D":
            return self._convolution_kind(operator)
        if operator.name == "DEPTHWISE_CONV_2D":
            return "inner" if self._depthwise_fits(operator) else None
        if operator.name in ("MEAN", "DEPTH_TO_SPACE"):
            return "exit" if self._rank(operator, 0) == _IMAGE_RANK else None
        if operator.name in ("ADD", "MUL"):
            return "inner" if self._rank(operator, 0) == self._rank(operator, 1) == _IMAGE_RANK else None
        if operator.name in _UNARY or operator.name == "RESIZE_BILINEAR":
            return "inner" if self._rank(operator, 0) == _IMAGE_RANK else None
        return None

    def _rank(self, operator: Operator, position: int) -> int:
        return len(self.graph.tensors[operator.inputs[position]].shape) if position < len(operator.inputs) else -1

    def _convolution_kind(self, operator: Operator) -> str | None:
        shape, strides = self._weight_shape(operator), _pair(operator, "stride")
        if _pair(operator, "dilation") not in ((1, 1), (None, None)):
            return None
        if shape[1:3] == (1, 1) and strides == (1, 1) and self._padding(operator) == 0:
            channels = self.graph.tensors[self._before_pad(operator)].shape[-1:]
            return "inner" if shape[3:] == channels else None
        is_stem = shape[1:] == (3, 3, 3) and strides == (2, 2) and self._padding(operator) == 1
        return "entry" if is_stem else None

    def _depthwise_fits(self, operator: Operator) -> bool:
        shape, strides = self._weight_shape(operator), _pair(operator, "stride")
        kernel = shape[1] if shape[1] == shape[2] else 0
        fits = kernel in (3, 5) and strides in ((1, 1), (2, 2)) and operator.options.get("depthMultiplier") == 1
        return fits and _pair(operator, "dilation") == (1, 1) and self._padding(operator) == kernel // 2

    def _weight_shape(self, operator: Operator) -> tuple[int, ...]:
        shape = self.graph.tensors[operator.inputs[1]].shape
        return shape if len(shape) == _IMAGE_RANK else (0, 0, 0, 0)

    def _padding(self, operator: Operator) -> int | None:
        """Return the padding if it is the same on all four sides, a PAD before the layer included."""
        if not self._is_padded(operator):
            kernel = self._weight_shape(operator)[1]
            return kernel // 2 if _pair(operator, "stride") == (1, 1) and kernel % 2 else None
        maker = self.makers.get(operator.inputs[0])
        pad = self.graph.operators[maker] if maker is not None else None
        if pad is None or pad.name != "PAD":
            return 0
        amounts = self.graph.tensors[pad.inputs[1]].values
        if amounts is None or amounts.shape != (_IMAGE_RANK, 2) or amounts[[0, 3]].any():
            return None
        sides = set(amounts[1:3].ravel().tolist())
        return sides.pop() if len(sides) == 1 else None

    def _weights(self, operators: list[int]) -> Iterator[np.ndarray[Any, Any]]:
        """Yield the weights of 1x1 convolutions in a cluster, and of linear layers directly behind its exits."""
        layers = {index for index in operators if self.graph.operators[index].name == "CONV_2D"}
        layers = {index for index in layers if self.kinds[index] == "inner"}
        for index in operators:
            if self.kinds[index] == "exit":
                readers = self.readers.get(self.graph.operators[index].outputs[0], [])
                layers |= {reader for reader in readers if self.graph.operators[reader].name == "FULLY_CONNECTED"}
        for index in sorted(layers):
            number = self.graph.operators[index].inputs[1]
            maker = self.makers.get(number)
            source = number if maker is None else self.graph.operators[maker].inputs[0]
            values = self.graph.tensors[source].values
            if values is not None:
                yield values


def _pair(operator: Operator, option: str) -> tuple[Any, Any]:
    names = {"stride": ("strideH", "strideW"), "dilation": ("dilationHFactor", "dilationWFactor")}[option]
    return operator.options.get(names[0]), operator.options.get(names[1])
