"""The Core ML converter, judged by the package on disk."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

from pdp_export import files
from pdp_export.converters import coreml_export
from pdp_export.errors import ConversionError, UsageError
from pdp_export.graph.capture import capture
from pdp_export.removal.simplification import simplify
from pdp_export.results import TensorSpec
from pdp_export.runtimes import coreml_package
from pdp_export.targets import ConvertRequest
from sample_models.mobilenet_v1 import mobilenet_v1
from sample_models.mobilenet_v2 import mobilenet_v2
from sample_models.resnet import resnet_cifar

BATCH = {0: {0: "batch"}}
DTYPES = {torch.float32: "float32", torch.int64: "int64"}


class Lambda(nn.Module):
    """A network of the given layers whose forward is the given function."""

    def __init__(self, function, *layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList(layers)

    def forward(self, *inputs):
        return self.function(self.layers, *inputs)


def _pruned(model: nn.Module, zeros: float) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                limit = parameter.abs().flatten().kthvalue(max(1, int(zeros * parameter.numel()))).values
                parameter[parameter.abs() <= limit] = 0
    return model.eval()


def _request(*inputs: torch.Tensor, dynamic: Mapping[int, Any] | None = None, **changes: Any) -> ConvertRequest:
    specs = tuple(
        TensorSpec(name=f"x{i}", shape=tuple(x.shape), dtype=DTYPES[x.dtype], dynamic=(dynamic or {}).get(i, {}))
        for i, x in enumerate(inputs)
    )
    values = {"inputs": specs, "outputs": ("y",), "precision": "fp16", **changes}
    return ConvertRequest.model_validate(values)


def _convert(path: Path, model: nn.Module, *inputs: torch.Tensor, dynamic=None, **changes: Any) -> ExportedProgram:
    program = capture(model.eval(), inputs, dynamic)
    coreml_export.convert(program, path, _request(*inputs, dynamic=dynamic, **changes))
    return program


IMAGE = torch.zeros(2, 3, 32, 32)
NETS = {
    "mobilenet_v1": lambda: mobilenet_v1(width=0.25, blocks=5),
    "mobilenet_v2": lambda: mobilenet_v2(width=0.25),
    "resnet": lambda: resnet_cifar(8),
}


@pytest.mark.parametrize(
    ("net", "precision", "min_ios"),
    [
        ("mobilenet_v1", "fp16", 16),
        ("resnet", "fp32", 18),
        pytest.param("mobilenet_v2", "fp16", 17, marks=pytest.mark.slow),
    ],
)
def test_every_weight_and_zero_arrives_bit_by_bit(tmp_path: Path, net: str, precision: str, min_ios: int):
    """Pins zeros lost, gained or moved, and weights changed by coremltools' own fusions."""
    path = tmp_path / "net.mlpackage"
    program = simplify(_pruned(NETS[net](), 0.8), (IMAGE,), BATCH)
    request = _request(IMAGE, dynamic=BATCH, precision=precision, encoding="sparse", options={"min_ios": min_ios})
    coreml_export.convert(program, path, request)
    dtype = np.float16 if precision == "fp16" else np.float32
    stored = {weight.name: weight for weight in coreml_package.weights(path)}
    matrices = {name: p.detach().numpy() for name, p in program.named_parameters() if p.dim() > 1}
    assert set(stored) == {name.replace(".", "_") for name in matrices}
    for name, values in matrices.items():
        weight = stored[name.replace(".", "_")]
        assert weight.values.tobytes() == values.astype(dtype).tobytes(), name
        assert weight.encoding == ("sparse" if values.size > coreml_export.SMALLEST_SPARSE else "dense"), name


@pytest.mark.parametrize(("zeros", "limit"), [(0.5, 0.566), (0.75, 0.318), (0.9, 0.169)])
def test_the_weight_file_shrinks_as_the_mask_predicts(tmp_path: Path, zeros: float, limit: float):
    """Pins the defaults of coremltools, which leave a tensor dense below half zeros or 2048 elements."""
    sizes = {}
    for encoding in ("dense", "sparse"):
        path = tmp_path / encoding
        _convert(path, _pruned(nn.Conv2d(64, 256, 3), zeros), torch.zeros(1, 64, 8, 8), encoding=encoding)
        sizes[encoding] = (path / "Data/com.apple.CoreML/weights/weight.bin").stat().st_size
    assert sizes["sparse"] / sizes["dense"] < limit
    bits = coreml_export.TARGET.predicted_bits("fp16", "sparse", zeros)
    assert sizes["sparse"] == pytest.approx(bits / 16 * sizes["dense"], rel=0.02)


@pytest.mark.parametrize(
    ("zeros", "encoding", "expected"), [(0.0, "auto", "dense"), (0.0, "sparse", "dense"), (0.2, "auto", "sparse"),
                                        (0.9, "dense", "dense"), (0.03, "sparse", "dense")]
)  # fmt: skip
def test_a_weight_is_sparse_where_it_was_asked_for_and_pays(tmp_path: Path, zeros: float, encoding: str, expected: str):
    """Pins a sparse form larger than the dense one, and a dense one where the mask would pay."""
    _convert(tmp_path / "p", _pruned(nn.Conv2d(16, 32, 3), zeros), torch.zeros(1, 16, 8, 8), encoding=encoding)
    (weight,) = coreml_package.weights(tmp_path / "p")
    assert weight.encoding == expected


def test_a_silently_dense_file_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Pins coremltools' habit of doing nothing, without a word, when it will not prune."""
    passes = coreml_export._passes
    monkeypatch.setattr(coreml_export, "_passes", lambda precision, **_: passes(precision, sparse=False))
    with pytest.raises(ConversionError, match="all weights dense"):
        _convert(tmp_path / "p", _pruned(nn.Conv2d(16, 32, 3), 0.9), torch.zeros(1, 16, 8, 8), encoding="sparse")
    assert not (tmp_path / "p").exists()


def test_zeros_that_no_stored_weight_holds_are_no_error_unless_sparse_is_demanded(tmp_path: Path):
    """Pins `auto` refusing a model whose zeros vanish in a computed weight, or sit in a parameter nobody reads."""
    layer, unread = (_pruned(nn.Linear(32, 32), 0.9) for _ in range(2))
    computed = Lambda(lambda m, x: x @ (m[0].weight + 1), layer, unread)
    _convert(tmp_path / "p", computed, torch.zeros(2, 32), encoding="auto")
    assert set(coreml_package.describe(tmp_path / "p").encodings) == {"dense"}
    with pytest.raises(ConversionError, match="all weights dense") as caught:
        _convert(tmp_path / "q", computed, torch.zeros(2, 32), encoding="sparse")
    assert caught.value.where == "layers.0.weight"
    _convert(
        tmp_path / "r", Lambda(lambda m, x: m[0](x), nn.Linear(32, 32), unread), torch.zeros(2, 32), encoding="sparse"
    )


def test_a_scale_is_not_multiplied_into_the_weights(tmp_path: Path):
    """Pins coremltools' fusion of `conv * constant`, after which no weight equals the program's."""
    model = Lambda(lambda layers, x: layers[0](x) * 3.0, nn.Conv2d(3, 4, 1))
    _convert(tmp_path / "p", model, torch.zeros(1, 3, 4, 4))
    (weight,) = coreml_package.weights(tmp_path / "p")
    assert weight.values.tobytes() == model.layers[0].weight.detach().half().numpy().tobytes()


def test_equal_weights_are_returned_for_every_layer(tmp_path: Path):
    """Pins a weight check that misses a layer, since coremltools stores equal tensors once."""
    layers = [nn.Conv2d(16, 32, 3, bias=False) for _ in range(2)]
    for layer in layers:
        nn.init.zeros_(layer.weight)
    _convert(tmp_path / "p", Lambda(lambda m, x: m[0](x) + m[1](x.relu()), *layers), torch.zeros(1, 16, 8, 8))
    assert [weight.encoding for weight in coreml_package.weights(tmp_path / "p")] == ["sparse", "sparse"]
    assert len(coreml_package.describe(tmp_path / "p").tensors) == 1


def test_what_overflows_fp16_stays_finite(tmp_path: Path):
    """Pins a weight that becomes infinite in an fp16 package."""
    layer = nn.Conv2d(3, 4, 1)
    with torch.no_grad():
        layer.weight[0] = 7e4
    _convert(tmp_path / "p", layer, torch.zeros(1, 3, 4, 4))
    assert all(np.isfinite(weight.values).all() for weight in coreml_package.weights(tmp_path / "p"))


def test_a_dynamic_batch_becomes_a_range_or_the_example(tmp_path: Path):
    """Pins a batch frozen at the captured size, and ranges where fixed shapes were asked for."""
    x = torch.zeros(4, 3, 8, 8)
    _convert(tmp_path / "range", nn.Conv2d(3, 4, 3), x, dynamic=BATCH)
    _convert(tmp_path / "fixed", nn.Conv2d(3, 4, 3), x, dynamic=BATCH, options={"fixed_shapes": True})
    ranged, fixed = (coreml_package.describe(tmp_path / name) for name in ("range", "fixed"))
    assert (ranged.inputs[0].shape, ranged.inputs[0].dynamic) == ((1, 3, 8, 8), {0: "1..64"})
    assert (ranged.outputs[0].shape, ranged.outputs[0].dynamic) == ((1, 4, 6, 6), {0: "open"})
    assert (fixed.inputs[0].shape, fixed.inputs[0].dynamic) == ((4, 3, 8, 8), {})
    assert (fixed.outputs[0].shape, fixed.outputs[0].dynamic) == ((4, 4, 6, 6), {})


def test_token_inputs_several_outputs_and_two_dynamic_axes(tmp_path: Path):
    """Pins image-only code: int64 ids become int32, each axis has its own range, outputs keep order and type."""
    model = Lambda(
        lambda m, ids: ((h := m[1](m[0](ids))).mean(1), h.argmax(-1)), nn.Embedding(40, 16), nn.Linear(16, 4)
    )
    dynamic = {0: {0: "batch", 1: "tokens"}}
    _convert(tmp_path / "p", model, torch.zeros(2, 7, dtype=torch.int64), dynamic=dynamic, outputs=("scores", "best"))
    facts = coreml_package.describe(tmp_path / "p")
    assert (facts.inputs[0].dtype, facts.inputs[0].shape) == ("int32", (1, 7))
    assert facts.inputs[0].dynamic == {0: "1..64", 1: "1..64"}
    assert [(item.name, item.dtype) for item in facts.outputs] == [("scores", "float32"), ("best", "int32")]


def test_attention_converts(tmp_path: Path):
    """Pins the core ATen dialect, in which coremltools loses linear and attention."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    _convert(tmp_path / "p", layer, torch.zeros(2, 5, 16), dynamic=BATCH)
    facts = coreml_package.describe(tmp_path / "p")
    assert facts.operators["linear"] == 4
    assert len(coreml_package.weights(tmp_path / "p")) == 4


def test_metadata_and_nothing_of_this_machine_is_in_the_package(tmp_path: Path):
    """Pins lost preprocessing, and the ExecuTorch table that coremltools leaves behind."""
    metadata = {"mean": "0.5", "labels": '["a", "b"]'}
    _convert(tmp_path / "p", nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8), metadata=metadata)
    facts = coreml_package.describe(tmp_path / "p")
    assert {key: facts.metadata[key] for key in metadata} == metadata
    names = {item.relative_to(tmp_path / "p").as_posix() for item in files.members(tmp_path / "p")}
    data = "Data/com.apple.CoreML"
    assert names == {"Manifest.json", f"{data}/model.mlmodel", f"{data}/weights/weight.bin"}
    for item in files.members(tmp_path / "p"):
        assert str(Path.cwd()).encode() not in item.read_bytes()
        assert item.stat().st_mode & 0o044 == 0o044


def test_any_name_is_written_and_an_older_package_replaced(tmp_path: Path):
    """Pins coremltools' rule that a package must end in .mlpackage: the pipeline writes to a temporary name."""
    path = tmp_path / ".net.mlpackage.partial"
    (path / "Data").mkdir(parents=True)
    (path / "Data" / "old").write_text("old")
    _convert(path, nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8))
    assert not (path / "Data" / "old").exists()
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_the_same_program_gives_the_same_bytes(tmp_path: Path):
    """Pins random identifiers, the date of the day and map order in the package."""
    model = _pruned(nn.Conv2d(16, 32, 3), 0.8)
    for name in ("a", "b"):
        _convert(tmp_path / name, model, torch.zeros(1, 16, 8, 8), metadata={str(i): "x" for i in range(9)})
    assert files.sha256(tmp_path / "a") == files.sha256(tmp_path / "b")


@pytest.mark.slow
def test_another_process_gives_the_same_bytes(tmp_path: Path):
    """Pins an order that depends on the hash seed of the process."""
    code = (
        "import sys, torch; from pathlib import Path; from torch import nn;"
        "from pdp_export.converters import coreml_export as c; from pdp_export.graph.capture import capture;"
        "from pdp_export.targets import ConvertRequest; from pdp_export.results import TensorSpec;"
        "torch.manual_seed(0); m = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3)).eval();"
        "r = ConvertRequest(inputs=(TensorSpec(name='x', shape=(1, 3, 8, 8)),), outputs=('y',), "
        "metadata={'a': 'b', 'c': 'd'});"
        "c.convert(capture(m, (torch.zeros(1, 3, 8, 8),)), Path(sys.argv[1]), r)"
    )
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, str(tmp_path / seed)], check=True, env=environment)
    assert files.sha256(tmp_path / "1") == files.sha256(tmp_path / "2")


def test_conversion_is_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """Pins progress bars, warnings and log lines of coremltools on stdout or stderr."""
    _convert(tmp_path / "p", nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8))
    assert capfd.readouterr() == ("", "")


def test_importing_the_converter_is_cheap():
    """Pins torch or coremltools loaded by `--help`."""
    code = (
        "import sys, pdp_export.converters.coreml_export;"
        "assert not {'torch', 'coremltools', 'numpy.testing'} & set(sys.modules), 'imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("model", "operator", "where"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.CELU()), "celu", "1 (celu)"),
        (
            nn.Sequential(nn.Upsample(8, mode="nearest-exact")),
            "_upsample_nearest_exact1d",
            "0 (_upsample_nearest_exact1d)",
        ),
        (Lambda(lambda m, x: torch.addcmul(x, x, m[0](x)), nn.Linear(4, 4)), "addcmul", "addcmul"),
    ],
)
def test_an_unsupported_operator_is_named_with_its_layer(tmp_path: Path, model: nn.Module, operator: str, where: str):
    """Pins coremltools' own exception, which names neither layer nor way out."""
    with pytest.raises(ConversionError, match=f"cannot convert {operator}") as caught:
        _convert(tmp_path / "p", model, torch.zeros(2, 3, 4))
    assert caught.value.where == where
    assert caught.value.hint
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    "options", [{"min_ios": 15}, {"min_ios": "16"}, {"min_ios": True}, {"fixed_shapes": 1}, {"min_oss": 16}]
)
def test_a_wrong_option_is_refused(tmp_path: Path, options: dict[str, Any]):
    """Pins a deployment target that silently drops the sparse encoding (iOS 15), and typing mistakes."""
    with pytest.raises(UsageError, match=next(iter(options))):
        _convert(tmp_path / "p", nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8), options=options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outputs": ("y", "z")}, "1 outputs"),
        ({"outputs": ("class.scores",)}, "cannot name a Core ML tensor"),
        ({"outputs": ("x0",)}, "input and output"),
        ({"inputs": (TensorSpec(name="x0", shape=(1, 3, 8, 9)),)}, "captured with 8 at axis 3"),
        ({"inputs": (TensorSpec(name="x0", shape=(1, 3, 8)),)}, "4 axes in the program"),
        ({"inputs": ()}, "1 inputs"),
        ({"precision": "int8"}, "no precision 'int8'"),
        ({"encoding": "gap8"}, "no encoding 'gap8'"),
    ],
)
def test_a_request_that_does_not_fit_the_program_is_refused(tmp_path: Path, changes: dict[str, Any], message: str):
    """Pins a package whose names or shapes are not those of the recipe."""
    with pytest.raises((ConversionError, UsageError), match=message):
        _convert(tmp_path / "p", nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8), **changes)


@pytest.mark.parametrize(
    ("function", "outputs", "message"),
    [
        (lambda m, x: m[0](x) > 0, ("y",), "torch.bool"),
        (lambda m, x: (m[0](x),) * 2, ("y", "z"), "were asked for"),
    ],
)
def test_outputs_that_core_ml_cannot_return_are_refused(tmp_path: Path, function, outputs, message: str):
    """Pins a renamed or retyped output: one tensor under two names, a truth value."""
    with pytest.raises(ConversionError, match=message):
        _convert(tmp_path / "p", Lambda(function, nn.Conv2d(3, 4, 3)), torch.zeros(1, 3, 8, 8), outputs=outputs)
