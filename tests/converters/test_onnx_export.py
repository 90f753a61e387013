"""The ONNX converter, judged by the file on disk: weights, zeros, outputs, names, and what must not be in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.export import ExportedProgram
from torch.nn.utils.prune import l1_unstructured

from pdp_export.converters.onnx_export import convert
from pdp_export.encoding.codecs import SPARSE_KEY
from pdp_export.errors import ConversionError, ProofError, UsageError
from pdp_export.results import TensorSpec
from pdp_export.runtimes import onnx_runtime
from pdp_export.targets import ConvertRequest
from sample_models.mobilenet_v1 import mobilenet_v1
from sample_models.resnet import resnet_cifar
from tests.converters.onnx_networks import capture, fold, prune

IMAGE = TensorSpec(name="image", shape=(2, 3, 32, 32), dynamic={0: "batch"}, layout="NCHW")
ENCODINGS = ("auto", "dense", "bitmask", "rice")  # the others: test_onnx_decoders.py
DECODERS = {"ScatterElements", "CumSum", "ConstantOfShape", "Where", "Cast", "Max"}


class Tokens(nn.Module):
    """An embedding, a Linear on rank 3 (a MatMul in ONNX), one on rank 2 (a Gemm), a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 48)
        self.up = nn.ConvTranspose1d(48, 64, 2, stride=2)
        self.wide = nn.Linear(64, 96)
        self.head = nn.Linear(96, 40, bias=False)

    def forward(self, ids):
        x = self.up(self.embedding(ids).transpose(1, 2)).transpose(1, 2)  # (N, 2 L, 64)
        x = torch.nn.functional.gelu(self.wide(x))
        return self.head(x.mean(1)), x


class Computed(nn.Module):
    """A weight that is computed from a parameter, so that its zeros do not survive."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))

    def forward(self, x):
        return x @ (self.weight - self.weight.mean())


def request(*inputs: TensorSpec, outputs=("logits",), **settings) -> ConvertRequest:
    return ConvertRequest(inputs=inputs or (IMAGE,), outputs=outputs, **settings)


@pytest.fixture(scope="module")
def pruned() -> nn.Module:
    torch.manual_seed(0)
    return prune(fold(mobilenet_v1(width=0.25, blocks=8)), 0.9)


@pytest.fixture(scope="module")
def program(pruned) -> ExportedProgram:
    return capture(pruned, torch.randn(2, 3, 32, 32))


@pytest.fixture(scope="module")
def files(program, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("onnx")
    paths = {encoding: folder / f"{encoding}.onnx" for encoding in ENCODINGS}
    for encoding, path in paths.items():
        convert(program, path, request(encoding=encoding, metadata={"pdp.mean": "0.5", "a": "ü"}))
    return paths


def assert_same_weights(model: nn.Module, path: Path) -> None:
    stored = {weight.name: weight.values for weight in onnx_runtime.weights(path)}
    for name, value in model.state_dict().items():
        if value.dim() > 1:
            assert stored[name].tobytes() == (value + 0.0).numpy().tobytes(), name


def assert_same_outputs(model: nn.Module, path: Path, name: str, *batches: torch.Tensor) -> None:
    session = onnx_runtime.open_session(path)
    for batch in batches:
        with torch.no_grad():
            expected = model(batch)
        expected = expected if isinstance(expected, tuple) else (expected,)
        for value, found in zip(expected, session.run({name: batch.numpy()}).values(), strict=True):
            assert np.abs(found - value.numpy()).max() <= 1e-5 * value.abs().max()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_file_holds_the_pruned_weights(encoding, pruned, files):
    """Each encoding: weights bit by bit, outputs at batch 1, 2 and 5, and nothing decoded at run time."""
    assert_same_weights(pruned, files[encoding])
    assert_same_outputs(pruned, files[encoding], "image", *(torch.randn(n, 3, 32, 32) for n in (1, 2, 5)))
    assert not DECODERS & set(onnx_runtime.optimized_operators(files[encoding]))


def test_sparse_files_are_smaller(files):
    """Zeros that stay zeros on the disk are the oldest complaint about pruning."""
    sizes = {encoding: path.stat().st_size for encoding, path in files.items()}
    assert sizes["auto"] <= sizes["bitmask"]
    assert sizes["auto"] < 0.25 * sizes["dense"]
    assert onnx_runtime.describe(files["dense"]).encodings == {
        "dense": len(onnx_runtime.describe(files["dense"]).tensors)
    }
    assert onnx_runtime.describe(files["bitmask"]).encodings["bitmask"] >= 8


def test_residual_network(tmp_path):
    """Residual adds and strided shortcuts, half of the weights gone (gaps of 4 bits)."""
    torch.manual_seed(1)
    model = prune(fold(resnet_cifar(depth=8)), 0.5)
    path = tmp_path / "r.onnx"
    convert(capture(model, torch.randn(2, 3, 32, 32)), path, request())
    assert_same_weights(model, path)
    assert_same_outputs(model, path, "image", torch.randn(3, 3, 32, 32))
    assert {"gap4", "gap8"} & set(onnx_runtime.describe(path).encodings)


def test_transposed_weights_keep_their_names(tmp_path):
    """The exporter renames a Linear it turns into MatMul to val_12; readers must find it, in torch layout."""
    torch.manual_seed(2)
    model = prune(Tokens(), 0.8)
    ids = TensorSpec(name="ids", shape=(2, 7), dtype="int64", dynamic={0: "n"})
    path = tmp_path / "t.onnx"
    convert(capture(model, torch.randint(0, 50, (2, 7))), path, request(ids, outputs=("scores", "features")))
    assert_same_weights(model, path)
    assert_same_outputs(model, path, "ids", torch.randint(0, 50, (3, 7)))
    assert [spec.name for spec in onnx_runtime.describe(path).outputs] == ["scores", "features"]


@pytest.mark.parametrize(("rows", "copies"), [(60, 2), (2000, 1)])
def test_tied_weights(rows, copies, tmp_path):
    """A tied embedding is stored under one name only (torch copies a small one, transposed); no zero is lost."""
    tied = nn.Sequential(nn.Embedding(rows, 64), nn.Linear(64, rows, bias=False))
    tied[1].weight = tied[0].weight
    prune(tied, 0.7)
    ids = TensorSpec(name="ids", shape=(2, 7), dtype="int64", dynamic={0: "n"})
    path = tmp_path / "t.onnx"
    convert(capture(tied, torch.randint(0, rows, (2, 7))), path, request(ids))
    stored = onnx_runtime.weights(path)
    assert len(stored) == copies
    for weight in stored:
        assert np.array_equal(weight.values, tied[0].weight.detach().numpy())
    assert_same_outputs(tied, path, "ids", torch.randint(0, rows, (3, 7)))


def test_file_tells_nothing_about_the_machine(files):
    """Exporter metadata holds stack traces with local paths and source lines, 7 % of a pruned file."""
    for path in files.values():
        data = path.read_bytes()
        for trace in (b"pkg.torch", b".py", b"site-packages", str(Path.home()).encode(), b"sample_models"):
            assert trace not in data


def test_names_axes_and_metadata(files):
    """Names, the dynamic batch and the preprocessing must arrive; foreign metadata must not."""
    facts = onnx_runtime.describe(files["auto"])
    sparse = sum(count for name, count in facts.encodings.items() if name != "dense")
    assert facts.metadata == {"pdp.mean": "0.5", "a": "ü", SPARSE_KEY: str(sparse)}
    (image,), (logits,) = facts.inputs, facts.outputs
    assert (image.name, image.shape, dict(image.dynamic)) == ("image", (1, 3, 32, 32), {0: "batch"})
    assert (logits.name, logits.shape, dict(logits.dynamic)) == ("logits", (1, 10), {0: "batch"})


def test_same_input_same_bytes(program, files, tmp_path):
    """A file that changes without its input breaks resume and every cache."""
    again = tmp_path / "again.onnx"
    convert(program, again, request(metadata={"a": "ü", "pdp.mean": "0.5"}))
    assert again.read_bytes() == files["auto"].read_bytes()


SCRIPT = """
import hashlib, sys, torch, warnings
warnings.simplefilter("ignore")
from pathlib import Path
from pdp_export.converters.onnx_export import convert
from pdp_export.results import TensorSpec
from pdp_export.targets import ConvertRequest
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.Conv2d(32, 32, 3)).eval()
torch.nn.init.sparse_(model[2].weight.data.view(32, -1), 0.9)
program = torch.export.export(model, (torch.randn(2, 3, 8, 8),)).run_decompositions({})
path = Path(sys.argv[1])
convert(program, path, ConvertRequest(inputs=(TensorSpec(name="x", shape=(2, 3, 8, 8)),), outputs=("y",)))
print(hashlib.sha256(path.read_bytes()).hexdigest())
"""


@pytest.mark.slow
def test_same_bytes_in_every_process(tmp_path):
    """Names that follow the hash seed or the identity of an object differ between processes only."""
    digests = set()
    for seed in ("0", "1"):
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / f"{seed}.onnx")]
        result = subprocess.run(command, env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True)
        digests.add(result.stdout)
    assert len(digests) == 1


def test_negative_zeros_become_positive(tmp_path):
    """A mask times a weight leaves -0.0 for negative weights: equal in value, but another file after every tool."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    with torch.no_grad():
        model[0].weight.mul_((torch.rand(4, 3, 3, 3) < 0.3).float())
    assert (torch.signbit(model[0].weight) & (model[0].weight == 0)).any()
    path = tmp_path / "z.onnx"
    convert(capture(model, torch.randn(2, 3, 32, 32)), path, request(encoding="dense"))
    (stored,) = onnx_runtime.weights(path)
    assert not np.signbit(stored.values[stored.values == 0]).any()
    assert np.array_equal(stored.values, model[0].weight.detach().numpy())


def test_import_is_cheap():
    """The plan of a run asks every target for its data; that must not load torch or onnx."""
    code = "import pdp_export.converters.onnx_export, sys; print({'torch', 'onnx', 'onnxruntime'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"


def test_opset_is_reached(tmp_path, program):
    """The exporter silently stops at 18 for what it cannot convert; the file says which one it is."""
    path = tmp_path / "o.onnx"
    convert(program, path, request(precision="fp16", options={"opset": 21}))
    assert {item.domain: item.version for item in onnx.load(path).opset_import} == {"": 21}
    kept = [weight for weight in onnx_runtime.describe(path).tensors if len(weight.shape) > 1]
    assert {(weight.dtype, weight.stored_dtype) for weight in kept} == {("float32", "float16")}


@pytest.mark.parametrize("opset", [17, 24, "18", True, 18.0])
def test_opset_outside_of_the_range(opset, program, tmp_path):
    """An opset that torch does not write must be refused before the work, not replaced."""
    with pytest.raises(UsageError, match="opset"):
        convert(program, tmp_path / "x.onnx", request(options={"opset": opset}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "fp8"}, "no precision 'fp8'"),
        ({"encoding": "gap9"}, "did you mean 'gap' or 'gap8'"),
        ({"options": {"opsett": 18}}, "did you mean 'opset'"),
        ({"options": {"encode_for": "sizes"}}, "did you mean 'size'"),
        ({"outputs": ("a", "b")}, "1 outputs, but 2"),
    ],
)
def test_wrong_requests(settings, message, program, tmp_path):
    """What this target does not have is refused by name and leaves no file."""
    with pytest.raises(UsageError, match=message):
        convert(program, tmp_path / "x.onnx", request(**settings))
    assert not list(tmp_path.iterdir())


def refusal(model: nn.Module, tmp_path: Path, *, dynamic: bool = True, kind: type[Exception] = ConversionError) -> str:
    x = torch.randn(2, 8)
    program = capture(model, x.to(next(model.parameters(), x).dtype), dynamic=dynamic)
    spec = TensorSpec(name="x", shape=(2, 8), dynamic={0: "batch"})
    with pytest.raises(kind) as caught:
        convert(program, tmp_path / "x.onnx", request(spec))
    assert not list(tmp_path.iterdir())
    return str(caught.value)


def test_mask_still_attached(tmp_path):
    """Exporting with hooks on doubles the file: weight and mask are both stored."""
    hooked = nn.Sequential(nn.Linear(8, 8))
    l1_unstructured(hooked[0], "weight", amount=0.5)
    assert "0.weight_orig" in refusal(hooked, tmp_path)
    normed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)))
    assert "parametrizations" in refusal(normed, tmp_path)


def test_operator_without_onnx(tmp_path):
    """The exporter's own message is a page; ours names the node and the operator."""

    class Bessel(nn.Module):
        def forward(self, x):
            return torch.special.bessel_j0(x)

    message = refusal(Bessel(), tmp_path)
    assert "bessel_j0" in message
    assert len(message) < 400


def test_axis_that_the_program_fixes(tmp_path):
    """A batch frozen at capture cannot be made dynamic afterwards."""
    assert "fixes it at 2" in refusal(nn.Linear(8, 3), tmp_path, dynamic=False)


def test_double_weights(tmp_path):
    """A float64 program would be written at twice the size, or cast silently."""
    assert "float64, not float32" in refusal(nn.Linear(8, 3).double(), tmp_path)


def test_lost_zeros_are_found(tmp_path):
    """A weight computed from a pruned one is dense again; the converter must not claim otherwise."""
    model = prune(Computed(), 0.5)
    assert "zeros of weight 'weight'" in refusal(model, tmp_path, kind=ProofError)


def test_conversion_leaves_the_program_usable(program, pruned):
    """The next target converts the same program."""
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(program.module()(x), pruned(x))
