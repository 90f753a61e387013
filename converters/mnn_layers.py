"""What the .mnn format cannot say by itself: which parameter each layer has, dynamic axes, metadata.

All of it goes as JSON into the label of the file (``bizCode``), the only free text that MNN keeps. `mnn_record` among
the runtimes reads it back.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pdp_export.errors import ConversionError
from pdp_export.results import TensorSpec
from pdp_export.targets import ConvertRequest

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import Tensor
    from torch.export import ExportedProgram
    from torch.fx import Node

_CONVOLUTIONS = (
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "convolution",
)
_PRODUCTS = ("matmul", "mm")
_IMAGE_WEIGHT_RANK = 4


@dataclass(frozen=True)
class Layer:
    """A layer with a weight: the name of its output tensor in the file, and its parameter."""

    tensor: str
    operator: str
    parameter: str
    weight: Tensor

    @property
    def transposed(self) -> bool:
        """Whether the file holds the weight transposed (``x @ w`` becomes a convolution)."""
        return self.operator in _PRODUCTS

    @property
    def zero_share(self) -> float:
        """The share of zeros, 0 to 1."""
        return 1 - int(self.weight.count_nonzero()) / max(1, self.weight.numel())


def layers(program: ExportedProgram, outputs: tuple[str, ...]) -> list[Layer]:
    """Return the convolutions, linear layers and products with a constant, in the order of the program.

    Raises:
        ConversionError: a convolution over one or three axes, which MNN 3.6 writes but runs with another output
            shape or not at all.
    """
    renamed = dict(zip((str(name) for name in program.graph_signature.user_outputs), outputs, strict=True))
    found = [_layer(program, node, renamed) for node in program.graph.nodes if node.op == "call_function"]
    kept = [layer for layer in found if layer is not None]
    for layer in kept:
        if layer.operator in _CONVOLUTIONS and layer.weight.dim() != _IMAGE_WEIGHT_RANK:
            raise ConversionError(
                f"layer {layer.parameter!r} is a convolution over {layer.weight.dim() - 2} axes; MNN runs only those "
                "over 2",
                where=layer.parameter,
                hint="write it as a Conv2d with a kernel of (1, k), or choose another target",
            )
    return kept


def renamed_like(model: ModelProto, found: list[Layer]) -> list[Layer]:
    """Return the layers with the tensor names of `model`: torch's exporter renames transposed convolutions."""
    tensors = {node.input[1]: node.output[0] for node in model.graph.node if node.op_type == "ConvTranspose"}
    return [dataclasses.replace(layer, tensor=tensors.get(layer.parameter, layer.tensor)) for layer in found]


def label(program: ExportedProgram, request: ConvertRequest, found: list[Layer]) -> str:
    """Return the JSON text for the label of the file; the same program and request give the same text."""
    record = {
        "pdp_export": 1,
        "metadata": dict(request.metadata),
        "inputs": [spec.model_dump(mode="json") for spec in request.inputs],
        "outputs": [spec.model_dump(mode="json") for spec in _outputs(program, request)],
        "weights": {
            layer.tensor: {
                "name": layer.parameter,
                "shape": list(layer.weight.shape),
                "transposed": layer.transposed,
            }
            for layer in found
        },
    }
    return json.dumps(record, sort_keys=True)


def _layer(program: ExportedProgram, node: Node, renamed: dict[str, str]) -> Layer | None:
    operator = str(getattr(node.target, "_opname", ""))
    if operator not in (*_CONVOLUTIONS, *_PRODUCTS, "linear"):
        return None
    signature, placeholder = program.graph_signature, str(getattr(node.args[1], "name", ""))
    lifted = (
        signature.inputs_to_parameters,
        signature.inputs_to_buffers,
        signature.inputs_to_lifted_tensor_constants,
    )
    name = next((names[placeholder] for names in lifted if placeholder in names), "")
    weight = program.state_dict.get(name, program.constants.get(name))
    if weight is None or weight.dim() < 2:  # noqa: PLR2004  a weight has two axes or more
        return None
    return Layer(renamed.get(node.name, node.name), operator, name, weight)


def _outputs(program: ExportedProgram, request: ConvertRequest) -> Iterator[TensorSpec]:
    """Yield a spec per output: axes that grow with a dynamic input axis carry its name or its formula."""
    nodes = {node.name: node for node in program.graph.nodes}
    signature = program.graph_signature
    symbols: dict[str, str] = {}
    for spec, name in zip(request.inputs, signature.user_inputs, strict=True):
        shape = nodes[str(name)].meta["val"].shape
        symbols |= {str(shape[axis]): wanted for axis, wanted in spec.dynamic.items()}
    for wanted, name in zip(request.outputs, signature.user_outputs, strict=True):
        value = nodes[str(name)].meta["val"]
        yield TensorSpec(
            name=wanted,
            shape=tuple(_example(size) for size in value.shape),
            dtype=str(value.dtype).removeprefix("torch."),
            dynamic={a: symbols.get(str(s), str(s)) for a, s in enumerate(value.shape) if not isinstance(s, int)},
            layout="NCHW" if value.dim() == _IMAGE_WEIGHT_RANK else "any",
        )


def _example(size: Any) -> int:
    """Return the size that a symbolic axis had in the example inputs."""
    return size if isinstance(size, int) else int(size.node.hint)
