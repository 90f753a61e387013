"""The MNN converter: what the file holds and what it computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pdp_export.converters import mnn_export
from pdp_export.runtimes import mnn_runtime
from sample_models.mobilenet_v1 import mobilenet_v1
from tests.converters.mnn_networks import error, fold, prune, write

ROOT = Path(mnn_export.__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return prune(fold(mobilenet_v1(width=0.5, blocks=4).eval()), 0.9)


@pytest.fixture(scope="module")
def image() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 3, 64, 64)


@pytest.fixture(scope="module")
def files(net: nn.Module, image: Tensor, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("mnn")
    metadata = {"mean": "0.5, 0.5, 0.5", "labels": 'zero "0"\nünï'}
    return {
        encoding: write(net, (image,), folder / f"{encoding}.mnn", encoding=encoding, metadata=metadata)
        for encoding in ("auto", "dense")
    }


def test_sparse_file_is_smaller_and_dense_is_not(files: dict[str, Path]) -> None:
    """Zeros stored dense never shrank a file: the flag must really reach MNN's converter."""
    sparse, dense = (mnn_runtime.describe(files[name]) for name in ("auto", "dense"))
    assert dense.encodings == {"dense": len(dense.tensors)}
    assert sparse.encodings["sparse"] == 6  # the stem, four 1x1 convolutions and the classifier
    saved = sum(tensor.stored_bytes for tensor in dense.tensors) - sum(t.stored_bytes for t in sparse.tensors)
    assert saved > 0.5 * dense.file_bytes
    assert dense.file_bytes - sparse.file_bytes > 0.9 * saved
    assert sparse.zeros == dense.zeros


def test_stored_weights_are_those_of_the_program(net: nn.Module, files: dict[str, Path]) -> None:
    """A layer may come back under another name, in another shape or with another bit."""
    expected = {name: value.numpy() for name, value in net.state_dict().items() if value.dim() > 1}
    for path in files.values():
        stored = {weight.name: weight.values for weight in mnn_runtime.weights(path)}
        assert expected.keys() <= stored.keys()
        for name, values in expected.items():
            assert np.array_equal(values.view(np.uint32), stored[name].view(np.uint32)), name


def test_outputs_match_at_every_batch_size(net: nn.Module, image: Tensor, files: dict[str, Path]) -> None:
    """A batch axis that was frozen at conversion, or a sparse kernel that computes something else."""
    for path in files.values():
        for batch in (2, 1, 5, 2):
            images = torch.cat([image, image, image])[:batch]
            assert error(path, net, (images,)) < 1e-5


def test_outputs_depend_on_the_image(net: nn.Module, image: Tensor) -> None:
    """The parity above says nothing when the network's answer is its bias."""
    with torch.no_grad():
        first, second = net(image)
    assert (first - second).abs().max() > 0.05 * first.abs().max()


def test_names_metadata_and_dynamic_axes_come_back(files: dict[str, Path]) -> None:
    """The format has no place for them, so a change of the label would lose them silently."""
    facts = mnn_runtime.describe(files["auto"])
    assert facts.metadata == {"mean": "0.5, 0.5, 0.5", "labels": 'zero "0"\nünï'}
    assert [(spec.name, spec.shape, spec.dynamic) for spec in facts.inputs] == [("image", (2, 3, 64, 64), {0: "batch"})]
    assert [(spec.name, spec.shape, spec.dynamic) for spec in facts.outputs] == [("logits", (2, 10), {0: "batch"})]
    assert facts.inputs[0].layout == "NCHW"
    assert facts.notes == ()


def test_file_tells_nothing_of_this_machine(files: dict[str, Path]) -> None:
    """The ONNX exporter of torch writes stack traces with local paths into ONNX."""
    data = files["auto"].read_bytes()
    assert b"site-packages" not in data
    assert str(ROOT).encode() not in data
    assert b"/tmp" not in data


def test_same_program_gives_same_bytes(tmp_path: Path) -> None:
    """MNN writes a random identifier, which would make every artifact look changed."""
    torch.manual_seed(2)
    module, image = (
        prune(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)), 0.8),
        torch.randn(2, 3, 9, 9),
    )
    first, second = (write(module, (image,), tmp_path / f"{name}.mnn", metadata={"a": "b"}) for name in "xy")
    assert first.read_bytes() == second.read_bytes()


class Branches(nn.Module):
    """Groups, depthwise with multiplier, transposed convolutions, attention-like products, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 12, 3, padding=1)
        self.grouped = nn.Conv2d(12, 18, 3, groups=3)
        self.depthwise = nn.Conv2d(12, 12, 3, stride=2, groups=12)
        self.multiplied = nn.Conv2d(12, 36, 3, groups=12, bias=False)
        self.up = nn.ConvTranspose2d(12, 6, 2, stride=2)
        self.rows = nn.Linear(7, 5)
        self.free = nn.Parameter(torch.randn(5, 8))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.nn.functional.hardswish(self.stem(image))
        left = torch.cat([self.grouped(x), self.multiplied(x)], dim=1)
        right = self.up(self.depthwise(x))[..., :7, :7]
        return left, self.rows(right) @ self.free


def test_layers_that_mnn_splits_come_back_whole(tmp_path: Path) -> None:
    """MNN cuts grouped convolutions into one per group and a depthwise multiplier into interleaved copies."""
    torch.manual_seed(3)
    module, image = prune(Branches(), 0.0), torch.randn(2, 4, 17, 17)
    with torch.no_grad():
        for weight in module.parameters():
            weight.mul_(torch.rand_like(weight) < 0.3) if weight.dim() > 1 else None
            weight.masked_fill_(weight == 0, 0.0)
    path = write(module, (image,), tmp_path / "branches.mnn", outputs=("left", "right"))
    assert error(path, module, (image,)) < 1e-5
    stored = {weight.name: weight for weight in mnn_runtime.weights(path)}
    for name, value in module.state_dict().items():
        if value.dim() > 1:
            assert np.array_equal(value.numpy(), stored[name].values), name
    assert stored["grouped.weight"].encoding == "sparse"
    assert stored["up.weight"].encoding == "dense"


def test_token_network_with_integer_input(tmp_path: Path) -> None:
    """Token ids are int64 in PyTorch and int32 in the file; an embedding stays a plain constant."""
    torch.manual_seed(4)
    module = prune(nn.Sequential(nn.Embedding(50, 16), nn.LayerNorm(16), nn.Linear(16, 8), nn.GELU()), 0.0)
    tokens = torch.randint(0, 50, (2, 9))
    path = write(module, (tokens,), tmp_path / "tokens.mnn")
    facts = mnn_runtime.describe(path)
    assert facts.inputs[0].dtype == "int32"
    assert error(path, module, (tokens,)) < 1e-5
    stored = {weight.name: weight.values for weight in mnn_runtime.weights(path)}
    assert np.array_equal(stored["0.weight"], module[0].weight.detach().numpy())
    assert np.array_equal(stored["2.weight"], module[2].weight.detach().numpy())
    assert sum(tensor.elements for tensor in facts.tensors if tensor.name.endswith((".gamma", ".beta"))) == 32


def test_subnormal_weights_and_signed_zeros_are_kept(tmp_path: Path) -> None:
    """MNN's default rounds subnormal weights to zero, and a mask leaves -0.0."""
    module = nn.Conv2d(3, 4, 1)
    with torch.no_grad():
        module.weight.fill_(0.5)
        module.weight[0] = 1e-40
        module.weight[1] = -0.0
    path = write(module, (torch.randn(2, 3, 5, 5),), tmp_path / "tiny.mnn")
    (stored,) = mnn_runtime.weights(path)
    assert (stored.values[0] == np.float32(1e-40)).all()
    assert (stored.values[1].view(np.uint32) == 0).all()


def test_all_zero_layer_survives(tmp_path: Path) -> None:
    """MNN keeps one explicit zero in an empty sparse weight; it must not count as a nonzero."""
    torch.manual_seed(5)
    module = prune(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)), 0.0)
    nn.init.zeros_(module[2].weight)
    image = torch.randn(2, 3, 9, 9)
    path = write(module, (image,), tmp_path / "zero.mnn", encoding="sparse")
    tensor = next(item for item in mnn_runtime.describe(path).tensors if item.name == "2.weight")
    assert (tensor.encoding, tensor.zeros, tensor.elements) == ("sparse", 32, 32)
    assert error(path, module, (image,)) < 1e-5
