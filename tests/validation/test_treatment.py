"""What the zeros of a weight buy in each format, for `inspect`."""

from __future__ import annotations

import pytest

from pdp_export.converters import registry
from pdp_export.results import FileFacts, TensorFacts
from pdp_export.validation.treatment import treatments


def _tensor(encoding, zeros=0.9, stored="float32", dtype="float32", stored_bytes=1000, shape=(64, 64)):
    size = 4096
    return TensorFacts(
        name="w", shape=shape, dtype=dtype, stored_dtype=stored, encoding=encoding, zeros=round(zeros * size),
        elements=size, stored_bytes=stored_bytes,
    )  # fmt: skip


def _of(target, tensor):
    facts = FileFacts(format=target, file_bytes=1, inputs=(), outputs=(), tensors=(tensor,))
    return treatments(facts, registry.load(target).TARGET)


@pytest.mark.parametrize("target", registry.MODULES)
def test_sparse_weights_get_what_the_target_declares(target):
    """A format whose sparse weights are said to save time or memory that its runtime does not save."""
    (found,) = _of(target, _tensor("sparse"))
    declared = registry.load(target).TARGET.effects["unstructured"]
    assert (found.ram, found.speed) == (declared.ram, declared.speed)
    assert found.disk.expected
    assert "6.1%" in found.disk.why


@pytest.mark.parametrize("target", registry.MODULES)
def test_dense_weights_gain_nothing(target):
    """A dense weight full of zeros must be pointed out, and one without must not."""
    precision = registry.load(target).TARGET.precisions[0]
    stored = {"fp16": "float16"}.get(precision, "float32")
    width = 2 if stored == "float16" else 4
    (found,) = _of(target, _tensor("dense", stored=stored, stored_bytes=width * 4096))
    assert {found.disk.expected, found.ram.expected, found.speed.expected} == {False}
    assert "90.0% zeros are stored" in found.disk.why
    (full,) = _of(target, _tensor("dense", zeros=0, stored=stored, stored_bytes=width * 4096))
    assert full.disk.why == "every value is stored"


def test_integers_are_faster_for_another_reason():
    """int8 kernels must not be sold as a gain of sparsity."""
    (found,) = _of("onnx", _tensor("gap6", stored="int8", stored_bytes=600))
    assert found.speed.expected is None
    assert "not by zeros" in found.speed.why
    assert not _of("onnx", _tensor("dense", shape=(4096,)))
