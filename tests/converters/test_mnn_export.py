"""The MNN converter: what the file holds, what it computes, what it refuses."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pdp_export.converters import mnn_export
from pdp_export.errors import ConversionError, UsageError
from pdp_export.results import TensorSpec
from pdp_export.runtimes import mnn_runtime
from pdp_export.targets import ConvertRequest
from sample_models.mobilenet_v1 import mobilenet_v1

ROOT = Path(mnn_export.__file__).resolve().parents[1]


def fold(module: nn.Module) -> nn.Module:
    """Fold BatchNorm by hand, wherever a Sequential holds a convolution and its norm side by side."""
    for block in [item for item in module.modules() if isinstance(item, nn.Sequential)]:
        for index, (first, second) in enumerate(zip(list(block), list(block)[1:], strict=False)):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                block[index], block[index + 1] = fuse_conv_bn_eval(first, second), nn.Identity()
    return module


def prune(module: nn.Module, share: float) -> nn.Module:
    """Draw weights that keep the scale of the activations, and zero the smallest of every layer but depthwise ones."""
    for item in module.modules():
        weight = getattr(item, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.dim() > 1:
            with torch.no_grad():
                nn.init.kaiming_normal_(weight, nonlinearity="relu")
                if share and getattr(item, "groups", 1) == 1:
                    keep = weight.abs() > weight.abs().flatten().quantile(share)
                    weight.copy_(torch.where(keep, weight * 1.4, 0.0))
    return module.eval()


def capture(module: nn.Module, inputs: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    shapes = tuple({0: torch.export.Dim("n")} if x.shape[0] > 1 else None for x in inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 warns about its own treespec
        return torch.export.export(module.eval(), inputs, dynamic_shapes=shapes).run_decompositions({})


def request(inputs: tuple[Tensor, ...], outputs: tuple[str, ...] = ("logits",), **more: object) -> ConvertRequest:
    names = ("image", "second")
    specs = tuple(
        TensorSpec(name=name, shape=tuple(x.shape), dtype=str(x.dtype).removeprefix("torch."), dynamic={0: "batch"})
        for name, x in zip(names, inputs, strict=False)
    )
    return ConvertRequest(inputs=specs, outputs=outputs, **more)


def write(module: nn.Module, inputs: tuple[Tensor, ...], path: Path, **more: object) -> Path:
    mnn_export.convert(capture(module, inputs), path, request(inputs, **more))
    return path


def error(path: Path, module: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    """Return max|y - y_torch| / max|y_torch| over all outputs."""
    session = mnn_runtime.open_session(path)
    with torch.no_grad():
        expected = module(*inputs)
    found = session.run({spec.name: x.numpy() for spec, x in zip(session.inputs, inputs, strict=True)})
    expected = expected if isinstance(expected, tuple | list) else (expected,)
    worst = 0.0
    for value, wanted in zip(found.values(), expected, strict=True):
        assert value.shape == tuple(wanted.shape)
        worst = max(worst, float(np.abs(value - wanted.numpy()).max() / wanted.abs().max()))
    return worst


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
    assert sparse.file_bytes < dense.file_bytes / 3
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


def test_sparse_encoding_without_zeros_is_refused(image: Tensor, tmp_path: Path) -> None:
    """Asking for sparse and silently getting a dense file."""
    module = prune(nn.Sequential(nn.Conv2d(3, 8, 3)), 0.0)
    with pytest.raises(ConversionError, match=r"more than 60% zeros; the sparsest, '0.weight', has 0.0%"):
        write(module, (image,), tmp_path / "dense.mnn", encoding="sparse")
    assert list(tmp_path.iterdir()) == []


def test_one_dimensional_convolution_is_refused(tmp_path: Path) -> None:
    """MNN writes it, and the output has one axis too many."""
    with pytest.raises(ConversionError, match="'weight' is a convolution over 1 axes"):
        write(nn.Conv1d(4, 4, 3), (torch.randn(2, 4, 9),), tmp_path / "conv1d.mnn")


def test_operator_that_mnn_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MNN's converter returns True when it failed; only the missing file tells."""
    import onnx
    from onnx import TensorProto, helper

    node = helper.make_node("DeformConv", ["x", "w", "o"], ["y"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 8]) for name in "xwoy"]
    model = helper.make_model(helper.make_graph([node], "g", values[:3], values[3:]))
    onnx.checker.check_model(model, full_check=False)
    monkeypatch.setattr(mnn_export, "export_plain_onnx", lambda *_: model)
    with pytest.raises(ConversionError, match="it has no DeformConv"):
        write(nn.Conv2d(3, 4, 1), (torch.randn(2, 3, 5, 5),), tmp_path / "none.mnn")
    assert list(tmp_path.iterdir()) == []


def test_unknown_encoding_is_refused_with_a_near_miss(image: Tensor, tmp_path: Path) -> None:
    """A typo in the recipe must not fall back to a default."""
    with pytest.raises(UsageError, match="did you mean 'sparse'"):
        write(nn.Conv2d(3, 4, 1), (image,), tmp_path / "x.mnn", encoding="sparce")


def test_fixed_batch_that_shall_be_dynamic_is_refused(tmp_path: Path) -> None:
    """A program captured at batch 1 would give a file that only runs at batch 1."""
    x = torch.randn(1, 3, 5, 5)
    program = capture(nn.Conv2d(3, 4, 1), (x,))
    with pytest.raises(ConversionError, match="axis 0 of input 'image' shall be dynamic"):
        mnn_export.convert(program, tmp_path / "x.mnn", request((x,)))


def test_telemetry_of_mnn_is_never_reached() -> None:
    """The `mnnconvert` script and `MNN.tools` install a package with pip and call a server."""
    sources = [*ROOT.glob("converters/*.py"), *ROOT.glob("pdp_export/**/*.py")]
    assert ROOT / "converters" / "mnn_export.py" in sources
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.startswith("MNN.tools") for name in names), source
            if isinstance(node, ast.Call) and "subprocess" in ast.unparse(node.func):
                assert "mnnconvert" not in ast.unparse(node), source


def test_conversion_starts_no_process_and_keeps_stdout_clean(tmp_path: Path) -> None:
    """MNN prints on file descriptor 1, and its script would start pip; stdout carries results only."""
    code = f"""
import sys, json
from pathlib import Path
events = []
sys.addaudithook(lambda name, args: events.append([name, str(args[0])[:80]])
    if name in ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "os.system", "socket.connect",
                "socket.getaddrinfo") else None)
import torch
from pdp_export.converters import mnn_export
assert "MNN" not in sys.modules and "_tools" not in sys.modules
from pdp_export.results import TensorSpec
from pdp_export.runtimes import mnn_runtime
from pdp_export.targets import ConvertRequest
net, x = torch.nn.Conv2d(3, 4, 1).eval(), torch.randn(1, 3, 5, 5)
program = torch.export.export(net, (x,)).run_decompositions({{}})
request = ConvertRequest(inputs=(TensorSpec(name="x", shape=(1, 3, 5, 5)),), outputs=("y",))
started = len(events)
path = Path({str(tmp_path / "net.mnn")!r})
mnn_export.convert(program, path, request)
session = mnn_runtime.open_session(path)
session.run({{"x": x.numpy()}})
assert mnn_runtime.version()
assert events[started:] == [], events[started:]
assert not [name for name in sys.modules if name.startswith("MNN.tools")]
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert done.stdout == b""
    assert [item.name for item in tmp_path.iterdir()] == ["net.mnn"]


def test_importing_the_converter_is_cheap() -> None:
    """`--help` and `--dry-run` read TARGET and must not load torch or MNN."""
    code = "import sys, pdp_export.converters.mnn_export; print({'torch', 'onnx', 'MNN', '_tools'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
