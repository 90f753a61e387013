"""The MNN converter refuses by name what it cannot do, and leaves no file behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pdp_export.converters import mnn_export
from pdp_export.errors import ConversionError, UsageError
from tests.converters.mnn_networks import capture, prune, request, write


def test_sparse_encoding_without_zeros_is_refused(tmp_path: Path) -> None:
    """Asking for sparse and silently getting a dense file."""
    module = prune(nn.Sequential(nn.Conv2d(3, 8, 3)), 0.0)
    with pytest.raises(ConversionError, match=r"more than 60% zeros; the sparsest, '0.weight', has 0.0%"):
        write(module, (torch.randn(2, 3, 5, 5),), tmp_path / "dense.mnn", encoding="sparse")
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


def test_unknown_encoding_is_refused_with_a_near_miss(tmp_path: Path) -> None:
    """A typo in the recipe must not fall back to a default."""
    with pytest.raises(UsageError, match="did you mean 'sparse'"):
        write(nn.Conv2d(3, 4, 1), (torch.randn(2, 3, 5, 5),), tmp_path / "x.mnn", encoding="sparce")


def test_fixed_batch_that_shall_be_dynamic_is_refused(tmp_path: Path) -> None:
    """A program captured at batch 1 would give a file that only runs at batch 1."""
    x = torch.randn(1, 3, 5, 5)
    program = capture(nn.Conv2d(3, 4, 1), (x,))
    with pytest.raises(ConversionError, match="axis 0 of input 'image' shall be dynamic"):
        mnn_export.convert(program, tmp_path / "x.mnn", request((x,)))
