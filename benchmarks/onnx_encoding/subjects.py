"""The networks whose weights are stored: random weights, pruned by magnitude in every layer.

Sizes, load and inference hold for any weights with zeros at random places; nothing here says anything about accuracy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from pdp_export.results import TensorSpec
from sample_models.mobilenet_v1 import mobilenet_v1
from sample_models.mobilenet_v2 import mobilenet_v2
from sample_models.resnet import resnet18
from sample_models.vision_transformer import Block

if TYPE_CHECKING:
    from onnx import ModelProto

Array = np.ndarray[Any, Any]
SMALLEST = 1024
"""Elements from which on a weight is pruned."""
_TOKENS = 64


class Encoder(nn.Module):
    """A text encoder of MiniLM's size: 30,522 words of width 384, 6 blocks, 12 heads, 22 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(30522, 384)
        self.places = nn.Parameter(torch.randn(1, _TOKENS, 384) * 0.02)
        self.blocks = nn.Sequential(*(Block(384, 12, 1536) for _ in range(6)))
        self.norm = nn.LayerNorm(384)

    def forward(self, ids: Tensor) -> Tensor:
        """Map (N, 64) word numbers to (N, 384) sentence vectors."""
        vectors: Tensor = self.norm(self.blocks(self.words(ids) + self.places)).mean(1)
        return vectors


@dataclass(frozen=True)
class Subject:
    """One network with its input for a batch of one."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    words: int = 0

    def sample(self, batch: int) -> Tensor:
        """Return random inputs."""
        generator = torch.Generator().manual_seed(1)
        shape = (batch, *self.shape[1:])
        if self.words:
            return torch.randint(0, self.words, shape, generator=generator)
        return torch.randn(shape, generator=generator)


SUBJECTS = {
    "mobilenet_v1": Subject(lambda: mobilenet_v1(classes=1000), (1, 3, 224, 224)),
    "mobilenet_v2": Subject(lambda: mobilenet_v2(classes=1000), (1, 3, 224, 224)),
    "resnet18": Subject(resnet18, (1, 3, 224, 224)),
    "encoder": Subject(Encoder, (1, _TOKENS), 30522),
}


def dense_model(name: str, cache: Path) -> ModelProto:
    """Return the exported network with its dense weights, BatchNorm folded; exported once per cache folder."""
    import onnx

    path = cache / f"{name}.dense.onnx"
    if not path.exists():
        _export(SUBJECTS[name], path)
    return onnx.ModelProto.FromString(path.read_bytes())


def _export(subject: Subject, path: Path) -> None:
    from pdp_export.converters.onnx_export import convert
    from pdp_export.graph.capture import capture
    from pdp_export.removal import simplify
    from pdp_export.targets import ConvertRequest

    torch.manual_seed(0)
    sample = subject.sample(2)
    program = capture(subject.build().eval(), (sample,), {0: {0: "batch"}})
    dtype = str(sample.dtype).removeprefix("torch.")
    spec = TensorSpec(name="input", shape=subject.shape, dtype=dtype, dynamic={0: "batch"})
    request = ConvertRequest(inputs=(spec,), outputs=("output",), encoding="dense")
    convert(simplify(program, (sample,)), path, request)


def prunable(model: ModelProto) -> list[str]:
    """Return the weights that are pruned: matrices and kernels, but not those of depthwise convolutions."""
    depthwise = {
        node.input[1]
        for node in model.graph.node
        for attribute in node.attribute
        if node.op_type == "Conv" and attribute.name == "group" and attribute.i > 1
    }
    return [
        item.name
        for item in model.graph.initializer
        if len(item.dims) > 1 and item.name not in depthwise and np.prod(item.dims) >= SMALLEST and item.data_type == 1
    ]


def prune(model: ModelProto, zeros: float) -> None:
    """Set the smallest share of every prunable weight to zero."""
    from onnx import numpy_helper

    names = set(prunable(model))
    for item in model.graph.initializer:
        if item.name in names:
            values = numpy_helper.to_array(item).copy()
            count = round(zeros * values.size)
            values.ravel()[np.argpartition(np.abs(values).ravel(), count)[:count]] = 0
            item.CopyFrom(numpy_helper.from_array(values, item.name))
