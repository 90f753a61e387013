"""The dtype, the encoding and the bytes of a file are what was asked for, not only its values."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pdp_export.converters import registry as converters
from pdp_export.graph.capture import capture
from pdp_export.measurements import SizeResult
from pdp_export.results import FileFacts, TensorFacts, TensorSpec, Verdict
from pdp_export.runtimes import registry as runtimes
from pdp_export.targets import ConvertRequest
from pdp_export.validation.size import compare_sizes
from pdp_export.validation.stored_form import check_dtype, check_size, paying_weights

ONNX = converters.load("onnx").TARGET
LARGE = (64, 64)


def _tensor(name="w", shape=LARGE, stored="float32", encoding="dense", max_abs=1.0, dtype=None):
    return TensorFacts(
        name=name, shape=shape, dtype=dtype or stored, stored_dtype=stored, encoding=encoding,
        zeros=0, elements=int(np.prod(shape)), stored_bytes=16, max_abs=max_abs,
    )  # fmt: skip


def _facts(*tensors):
    return FileFacts(format="fake", file_bytes=100, inputs=(), outputs=(), tensors=tensors)


@pytest.mark.parametrize(
    ("precision", "tensors", "verdict", "told"),
    [
        ("fp32", [_tensor()], Verdict.PASS, ""),
        ("fp16", [_tensor(stored="float16")], Verdict.PASS, ""),
        ("fp32", [_tensor(), _tensor("half", stored="float16")], Verdict.FAIL, "half is float16"),
        ("fp32", [_tensor(stored="int8", dtype="float32")], Verdict.FAIL, "w is int8"),
        ("fp16", [_tensor(stored="bfloat16")], Verdict.FAIL, "w is bfloat16"),
        ("fp16", [_tensor(stored="float16"), _tensor("wide")], Verdict.FAIL, "wide is float32"),
        ("fp16", [_tensor("wide", max_abs=None)], Verdict.FAIL, "wide is float32"),
        ("fp16", [_tensor("wide", max_abs=1e5)], Verdict.PASS, "wide is float32: 1e+05 exceeds float16"),
        (
            "fp16",
            [_tensor("a_weight"), _tensor("a_bias", (64,), max_abs=7e4), _tensor("b_weight", stored="float16")],
            Verdict.PASS,
            "a_weight is float32: 7e+04 exceeds float16",
        ),
        ("fp16", [_tensor("a_weight"), _tensor("ab_bias", (64,), max_abs=7e4)], Verdict.FAIL, "a_weight is float32"),
        ("fp32", [_tensor("table", stored="float64"), _tensor()], Verdict.PASS, "table is float64"),
        ("fp32", [_tensor("ids", stored="int64"), _tensor(), _tensor("b", (64,), "float16")], Verdict.PASS, ""),
        ("fp32", [_tensor("b", (64,))], Verdict.NOT_RUN, "no weight of rank 2"),
    ],
)
def test_the_dtype_is_the_asked_one(precision, tensors, verdict, told):
    """Pins half precision that nobody asked for, and a layer kept wider without a reason."""
    check = check_dtype(_facts(*tensors), precision)
    assert (check.name, check.verdict) == ("dtype", verdict)
    assert told in check.reason
    assert bool(told) == bool(check.reason)


def _weights(zeros, shape=LARGE):
    values = np.ones(shape, np.float32).ravel()
    values[: round(zeros * values.size)] = 0
    return {"w": values.reshape(shape)}


def _paying(weights, encoding="auto"):
    return paying_weights(weights, "fp32", encoding, ONNX)


def _sizes(pruned, dense):
    return SizeResult(
        pruned_bytes=pruned, pruned_gzip_bytes=1, dense_bytes=dense, ratio=dense / pruned if dense else None
    )


@pytest.mark.parametrize(
    ("encoding", "weights", "stored", "sizes", "verdict", "told"),
    [
        ("auto", _weights(0.9), "gap8", _sizes(50, 100), Verdict.PASS, "2 times smaller"),
        ("auto", _weights(0.9), "dense", _sizes(100, 100), Verdict.FAIL, "no weight is stored sparsely; 1 would"),
        ("bitmask", _weights(0.9), "dense", _sizes(100, 100), Verdict.FAIL, "w (90.0% zeros"),
        ("auto", _weights(0.9), "gap8", _sizes(101, 100), Verdict.FAIL, "101 bytes, the dense one 100"),
        ("auto", _weights(0.01), "dense", _sizes(100, 100), Verdict.PASS, "1 times smaller"),
        ("auto", _weights(0.9, (10, 10)), "dense", _sizes(100, 100), Verdict.PASS, ""),
        ("dense", _weights(0.9), "dense", _sizes(101, 100), Verdict.PASS, "0.99 times smaller"),
        ("auto", _weights(0.9), "gap8", _sizes(50, None), Verdict.PASS, "no dense file"),
        ("auto", _weights(0.9), "dense", _sizes(50, None), Verdict.FAIL, "no weight is stored sparsely"),
    ],
)
def test_zeros_make_the_file_smaller(encoding, weights, stored, sizes, verdict, told):
    """Pins a pruned file that is as large as the dense one, or larger, and passes."""
    check = check_size(sizes, _facts(_tensor(encoding=stored)), encoding, _paying(weights, encoding))
    assert (check.name, check.verdict, check.value) == ("size", verdict, sizes.ratio)
    assert told in check.reason


def test_a_sparse_bias_is_no_sparse_weight():
    """Pins an encoding of something else that is taken for the weights'."""
    facts = _facts(_tensor(), _tensor("b", (64,), encoding="gap8"))
    assert check_size(_sizes(99, 100), facts, "auto", _paying(_weights(0.9))).verdict is Verdict.FAIL


def test_without_a_declaration_nothing_is_predicted():
    """Pins a guess about a format that declares no cost of its encodings."""
    silent = ONNX.model_copy(update={"storage": {}})
    assert paying_weights(_weights(0.9), "fp32", "auto", silent) == []
    assert _paying(_weights(0.9) | {"v": np.zeros(LARGE)}) == ["v (100.0% zeros)", "w (90.0% zeros)"]


def _program(zeros):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.Flatten(), nn.Linear(512, 9))
    with torch.no_grad():
        for weight in (item for item in model.parameters() if item.dim() > 1):
            smallest = weight.abs().flatten().argsort()[: round(zeros * weight.numel())]
            weight.view(-1)[smallest] = 0
    return capture(model, (torch.zeros(1, 3, 8, 8),))


@pytest.mark.parametrize("target", converters.MODULES)
def test_real_files_of_every_target(target: str, tmp_path: Path):
    """Pins an encoding that a converter drops silently, and a rule that refuses a file with few zeros."""
    converter, declared = converters.load(target), converters.load(target).TARGET
    precision, suffix = declared.precisions[0], declared.suffix
    spec = TensorSpec(name="image", shape=(1, 3, 8, 8), layout="NCHW")
    asked = ConvertRequest(inputs=(spec,), outputs=("y",), precision=precision)
    densely = asked.model_copy(update={"encoding": "dense"})
    dense = tmp_path / f"dense{suffix}"
    converter.convert(_program(0.0), dense, densely)
    for zeros, request, verdict in (
        (0.9, asked, Verdict.PASS),
        (0.9, densely, Verdict.FAIL),
        (0.1, asked, Verdict.PASS),
        (0.0, asked, Verdict.PASS),
    ):
        path, program = tmp_path / f"{zeros}-{request.encoding}{suffix}", _program(zeros)
        converter.convert(program, path, request)
        facts = runtimes.load(target).describe(path)
        weights = {name: value.detach().numpy() for name, value in program.state_dict.items() if value.dim() > 1}
        paying = paying_weights(weights, precision, "auto", declared)
        size = check_size(compare_sizes(path, dense, facts), facts, "auto", paying)
        assert size.verdict is verdict, size.reason
        assert check_dtype(facts, precision).verdict is Verdict.PASS
        other = next(name for name in ("fp16", "fp32") if name != precision)
        assert check_dtype(facts, other).verdict is Verdict.FAIL


def test_a_core_ml_layer_that_overflows_says_so(tmp_path: Path):
    """Pins a layer that coremltools keeps in float32 because of its bias, taken for a fault or not reported."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    with torch.no_grad():
        model[2].bias[0] = 1e5
    spec = TensorSpec(name="image", shape=(1, 3, 8, 8), layout="NCHW")
    request = ConvertRequest(inputs=(spec,), outputs=("y",), precision="fp16")
    converters.load("coreml").convert(capture(model, (torch.zeros(1, 3, 8, 8),)), tmp_path / "p", request)
    check = check_dtype(runtimes.load("coreml").describe(tmp_path / "p"), "fp16")
    assert check.verdict is Verdict.PASS
    assert check.reason == "2_weight is float32: 1e+05 exceeds float16"


def test_a_file_that_became_dense_again_fails():
    """An optimizer that ran last undid the encoding; the file is right, but the bytes that were promised are gone."""
    facts = _facts(_tensor()).model_copy(update={"expanded": True})
    for encoding in ("auto", "dense"):
        check = check_size(_sizes(90, 100), facts, encoding, [])
        assert check.verdict is Verdict.FAIL
        assert "dense again" in check.reason
