"""weight.bin, written by Apple's own writer and read by ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pdp_export.converters.coreml_quiet import quiet
from pdp_export.errors import FileError
from pdp_export.runtimes.mil.weight_file import ALIGNMENT, WeightFile, unpacked

SETTINGS = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])

KINDS = {
    "FLOAT16": ("write_fp16_data", "<f2"), "FLOAT32": ("write_float_data", "<f4"),
    "UINT8": ("write_uint8_data", "|u1"), "INT8": ("write_int8_data", "|i1"),
    "INT16": ("write_int16_data", "<i2"), "UINT16": ("write_uint16_data", "<u2"),
    "INT32": ("write_int32_data", "<i4"), "UINT32": ("write_uint32_data", "<u4"),
}  # fmt: skip

shapes = hnp.array_shapes(max_dims=4, max_side=9)
tensors = st.sampled_from(sorted(KINDS)).flatmap(
    lambda kind: st.tuples(st.just(kind), hnp.arrays(np.dtype(KINDS[kind][1]), shapes))
)
masks = hnp.arrays(np.bool_, shapes)


def _write(path: Path, blobs: list[tuple[str, np.ndarray[Any, Any]]]) -> list[int]:
    with quiet():
        from coremltools.libmilstoragepython import _BlobStorageWriter
    writer = _BlobStorageWriter(str(path))
    offsets = []
    for kind, values in blobs:
        flat = values.ravel()
        if kind == "UINT1":
            offsets.append(writer.write_uint1_data(flat.astype(np.uint8)))
        else:
            raw = flat.view(np.uint16) if kind == "FLOAT16" else flat
            offsets.append(getattr(writer, KINDS[kind][0])(np.ascontiguousarray(raw)))
    del writer  # the header is written when the writer goes
    return offsets


@SETTINGS
@given(blobs=st.lists(tensors, min_size=1, max_size=6))
def test_every_type_that_apple_writes_is_read_bit_by_bit(tmp_path: Path, blobs: list[tuple[str, Any]]):
    """Pins a wrong type number, byte order or alignment: the writer is Apple's, so both cannot err alike."""
    offsets = _write(tmp_path / "weight.bin", blobs)
    weights = WeightFile(tmp_path / "weight.bin")
    for offset, (kind, values) in zip(offsets, blobs, strict=True):
        assert weights.blob(offset, kind).tensor(values.shape).tobytes() == values.tobytes()


@SETTINGS
@given(mask=masks)
def test_a_bit_mask_is_read_in_apples_bit_order(tmp_path: Path, mask: np.ndarray[Any, Any]):
    """Pins highest-bit-first order and a dropped tail of fewer than eight bits."""
    (offset,) = _write(tmp_path / "weight.bin", [("UINT1", mask)])
    read = WeightFile(tmp_path / "weight.bin").blob(offset, "UINT1").tensor(mask.shape)
    assert np.array_equal(read, mask)


@SETTINGS
@given(mask=masks)
def test_the_ios16_mask_of_bytes_is_the_same_bits(tmp_path: Path, mask: np.ndarray[Any, Any]):
    """Pins a reader that only understands the iOS 18 form."""
    packed = np.packbits(mask.ravel(), bitorder="little")
    (offset,) = _write(tmp_path / "weight.bin", [("UINT8", packed)])
    stored = WeightFile(tmp_path / "weight.bin").blob(offset, "UINT8").data
    assert np.array_equal(unpacked(stored, 1, mask.size, "a mask").reshape(mask.shape), mask)


def test_a_mask_with_bits_behind_its_last_element_is_damaged():
    """Pins a moved mask bit that leaves the tensor and would be lost."""
    data = np.array([0b1111], dtype=np.uint8)
    assert unpacked(data, 1, 4, "a mask").all()
    with pytest.raises(FileError, match="beyond its 3 elements"):
        unpacked(data, 1, 3, "a mask")


@SETTINGS
@given(data=st.data(), blobs=st.lists(tensors, min_size=1, max_size=4))
def test_a_truncated_file_is_refused_at_any_length(tmp_path: Path, data: st.DataObject, blobs: list[tuple[str, Any]]):
    """Pins reading past the end: every shorter file must be a FileError when it is opened."""
    path = tmp_path / "weight.bin"
    _write(path, blobs)
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(FileError):
        WeightFile(path)


def test_bytes_behind_the_last_blob_are_refused(tmp_path: Path):
    """Pins a header whose count is too small: weights that nobody would compare."""
    path = tmp_path / "weight.bin"
    _write(path, [("FLOAT16", np.ones(3, dtype="<f2")), ("FLOAT16", np.ones(3, dtype="<f2"))])
    damaged = bytearray(path.read_bytes())
    damaged[0] = 1
    path.write_bytes(damaged)
    with pytest.raises(FileError, match="behind its last blob"):
        WeightFile(path)


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [(4, 9, "version 9"), (ALIGNMENT, 0, "no valid record"), (ALIGNMENT + 16, 64, "no valid record")],
)
def test_a_foreign_header_or_record_is_refused(tmp_path: Path, offset: int, value: int, message: str):
    """Pins decoding noise as weights: version, sentinel and data position are checked."""
    path = tmp_path / "weight.bin"
    _write(path, [("FLOAT16", np.ones(3, dtype="<f2"))])
    damaged = bytearray(path.read_bytes())
    damaged[offset] = value
    path.write_bytes(damaged)
    with pytest.raises(FileError, match=message):
        WeightFile(path)


def test_a_blob_is_only_given_out_for_its_own_offset_and_type(tmp_path: Path):
    """Pins a program that points into the middle of a blob, or reads fp32 as fp16."""
    path = tmp_path / "weight.bin"
    (offset,) = _write(path, [("FLOAT16", np.ones(300, dtype="<f2"))])
    weights = WeightFile(path)
    with pytest.raises(FileError, match="no blob at byte 128"):
        weights.blob(128, "FLOAT16")
    with pytest.raises(FileError, match="declares FLOAT32"):
        weights.blob(offset, "FLOAT32")
    with pytest.raises(FileError, match="600 bytes"):
        weights.blob(offset, "FLOAT16").tensor((30,))
