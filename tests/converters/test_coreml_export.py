"""The Core ML converter, judged by the package on disk: weights, zeros, sizes, operators, silence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pdp_export.converters import coreml_export
from pdp_export.converters.coreml_forms import chosen_form
from pdp_export.errors import ConversionError
from pdp_export.removal.simplification import simplify
from pdp_export.runtimes import coreml_package
from sample_models.mobilenet_v1 import mobilenet_v1
from sample_models.mobilenet_v2 import mobilenet_v2
from sample_models.resnet import resnet_cifar
from tests.converters.coreml_networks import BATCH, Lambda, convert, pruned, request

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
    program = simplify(pruned(NETS[net](), 0.8), (IMAGE,), BATCH)
    wanted = request(IMAGE, dynamic=BATCH, precision=precision, encoding="sparse", options={"min_ios": min_ios})
    coreml_export.convert(program, path, wanted)
    dtype = np.float16 if precision == "fp16" else np.float32
    stored = {weight.name: weight for weight in coreml_package.weights(path)}
    matrices = {name: p.detach().numpy() for name, p in program.named_parameters() if p.dim() > 1}
    assert set(stored) == {name.replace(".", "_") for name in matrices}
    for name, values in matrices.items():
        weight = stored[name.replace(".", "_")]
        assert weight.values.tobytes() == values.astype(dtype).tobytes(), name
        assert weight.encoding == chosen_form(values.astype(dtype), "sparse"), name


@pytest.mark.parametrize(("zeros", "limit"), [(0.5, 0.566), (0.75, 0.318), (0.9, 0.169)])
def test_the_weight_file_shrinks_as_the_mask_predicts(tmp_path: Path, zeros: float, limit: float):
    """Pins the defaults of coremltools, which leave a tensor dense below half zeros or 2048 elements."""
    sizes = {}
    for encoding in ("dense", "sparse"):
        path = tmp_path / encoding
        convert(path, pruned(nn.Conv2d(64, 256, 3), zeros), torch.zeros(1, 64, 8, 8), encoding=encoding)
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
    convert(tmp_path / "p", pruned(nn.Conv2d(16, 32, 3), zeros), torch.zeros(1, 16, 8, 8), encoding=encoding)
    (weight,) = coreml_package.weights(tmp_path / "p")
    assert weight.encoding == expected


def test_a_silently_dense_file_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Pins coremltools' habit of doing nothing, without a word, when it will not prune."""
    passes = coreml_export._passes
    monkeypatch.setattr(coreml_export, "_passes", lambda _encoding, *others: passes("dense", *others))
    with pytest.raises(ConversionError, match="all weights dense"):
        convert(tmp_path / "p", pruned(nn.Conv2d(16, 32, 3), 0.9), torch.zeros(1, 16, 8, 8), encoding="sparse")
    assert not (tmp_path / "p").exists()


def test_zeros_that_no_stored_weight_holds_are_no_error_unless_sparse_is_demanded(tmp_path: Path):
    """Pins `auto` refusing a model whose zeros vanish in a computed weight, or sit in a parameter nobody reads."""
    layer, unread = (pruned(nn.Linear(32, 32), 0.9) for _ in range(2))
    computed = Lambda(lambda m, x: x @ (m[0].weight + 1), layer, unread)
    convert(tmp_path / "p", computed, torch.zeros(2, 32), encoding="auto")
    assert set(coreml_package.describe(tmp_path / "p").encodings) == {"dense"}
    with pytest.raises(ConversionError, match="all weights dense") as caught:
        convert(tmp_path / "q", computed, torch.zeros(2, 32), encoding="sparse")
    assert caught.value.where == "layers.0.weight"
    convert(
        tmp_path / "r", Lambda(lambda m, x: m[0](x), nn.Linear(32, 32), unread), torch.zeros(2, 32), encoding="sparse"
    )


def test_a_scale_is_not_multiplied_into_the_weights(tmp_path: Path):
    """Pins coremltools' fusion of `conv * constant`, after which no weight equals the program's."""
    model = Lambda(lambda layers, x: layers[0](x) * 3.0, nn.Conv2d(3, 4, 1))
    convert(tmp_path / "p", model, torch.zeros(1, 3, 4, 4))
    (weight,) = coreml_package.weights(tmp_path / "p")
    assert weight.values.tobytes() == model.layers[0].weight.detach().half().numpy().tobytes()


def test_equal_weights_are_returned_for_every_layer(tmp_path: Path):
    """Pins a weight check that misses a layer, since coremltools stores equal tensors once."""
    layers = [nn.Conv2d(16, 32, 3, bias=False) for _ in range(2)]
    for layer in layers:
        nn.init.zeros_(layer.weight)
    convert(tmp_path / "p", Lambda(lambda m, x: m[0](x) + m[1](x.relu()), *layers), torch.zeros(1, 16, 8, 8))
    assert [weight.encoding for weight in coreml_package.weights(tmp_path / "p")] == ["sparse", "sparse"]
    assert len(coreml_package.describe(tmp_path / "p").tensors) == 1


def test_what_overflows_fp16_stays_finite(tmp_path: Path):
    """Pins a weight that becomes infinite in an fp16 package."""
    layer = nn.Conv2d(3, 4, 1)
    with torch.no_grad():
        layer.weight[0] = 7e4
    convert(tmp_path / "p", layer, torch.zeros(1, 3, 4, 4))
    assert all(np.isfinite(weight.values).all() for weight in coreml_package.weights(tmp_path / "p"))


def test_attention_converts(tmp_path: Path):
    """Pins the core ATen dialect, in which coremltools loses linear and attention."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    convert(tmp_path / "p", layer, torch.zeros(2, 5, 16), dynamic=BATCH)
    facts = coreml_package.describe(tmp_path / "p")
    assert facts.operators["linear"] == 4
    assert len(coreml_package.weights(tmp_path / "p")) == 4


def test_conversion_is_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """Pins progress bars, warnings and log lines of coremltools on stdout or stderr."""
    convert(tmp_path / "p", nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8))
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
        convert(tmp_path / "p", model, torch.zeros(2, 3, 4))
    assert caught.value.where == where
    assert caught.value.hint
    assert not (tmp_path / "p").exists()
