"""Measured costs: what is timed is the layer that was asked for, once, on the runtime that was named."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import shape_inference

from pdp_export.costs.cache import TimeCache
from pdp_export.costs.measured import Measured, measured, preferred_block
from pdp_export.costs.onnx_layers import onnx_layer, onnx_run
from pdp_export.costs.timing import median_us
from pdp_export.costs.torch_layers import torch_run
from pdp_export.errors import UsageError
from pdp_export.removal.costs import LayerWork


def convolution(columns: int = 8, available: int = 8, rows: int = 6, wanted: int = 6, groups: int = 1) -> LayerWork:
    sizes = {"source": (1, 9, 9), "result": (1, 5, 5), "kernel": (3, 3), "stride": (2, 2), "dilation": (1, 1)}
    return LayerWork("convolution", rows, columns, available, wanted, groups=groups, **sizes)


@st.composite
def works(draw: st.DrawFn) -> LayerWork:
    """Any layer that an option of a plan can name: its sizes come from a layer that exists."""
    kind = draw(st.sampled_from(["convolution", "transposed", "linear"]))
    available, wanted = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    columns, rows = draw(st.integers(1, available)), draw(st.integers(1, wanted))
    parts: tuple[int, ...] = ()
    if draw(st.booleans()):
        parts = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
        columns = available = sum(parts)
    before = tuple(draw(st.lists(st.sampled_from(["norm", "unary"]), max_size=0 if parts else 2)))
    if kind == "linear":
        places = (draw(st.integers(1, 4)),)
        return LayerWork("linear", rows, columns, available, wanted, places, places, before=before, parts=parts)
    axes = draw(st.integers(1, 3))
    kernel, stride, dilation = (tuple(draw(st.integers(1, 3)) for _ in range(axes)) for _ in range(3))
    padding = tuple(draw(st.integers(0, size // 2)) for size in kernel)
    layers = {"convolution": torch.nn.functional.conv1d, "transposed": torch.nn.functional.conv_transpose1d}
    source, result = [1], [1]
    for axis in range(axes):
        x, k = torch.zeros(1, 1, 8), torch.zeros(1, 1, kernel[axis])
        y = layers[kind](x, k, None, stride[axis], padding[axis], dilation=dilation[axis])
        source.append(8)
        result.append(y.shape[2])
    sizes = (tuple(source), tuple(result), kernel, stride, dilation)
    if kind == "convolution" and not parts and draw(st.booleans()):  # depthwise
        return LayerWork(kind, columns, columns, available, max(wanted, columns), *sizes, columns, before)
    return LayerWork(kind, rows, columns, available, wanted, *sizes, before=before, parts=parts)


@settings(max_examples=60, deadline=None)
@given(works())
def test_layer_has_the_sizes_that_were_asked_for(work: LayerWork) -> None:
    """A layer of another size has another time; one that the runtime refuses has none."""
    y = torch_run(work)()
    assert y.shape[:2] == (work.source[0], work.wanted)
    assert all(abs(size - asked) <= 1 for size, asked in zip(y.shape[2:], work.result[1:], strict=True))
    model = shape_inference.infer_shapes(onnx_layer(work), strict_mode=True)
    made = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in model.graph.value_info}
    wide = made["wide"] if work.rows < work.wanted else made["made"]
    assert wide == [work.source[0], work.wanted, *work.result[1:]]
    (result,) = onnx_run(work, 1)()
    assert np.isfinite(result).all()


def test_gathers_are_part_of_the_model() -> None:
    """A select that is not timed would always win."""
    narrow = onnx_layer(convolution(columns=5, rows=4))
    kinds = [node.op_type for node in narrow.graph.node if node.op_type != "Constant"]
    assert kinds == ["Conv", "Gather", "Conv", "Pad", "Gather", "Conv"]
    behind = onnx_layer(dataclasses.replace(convolution(columns=5), before=("norm", "unary")))
    kinds = [node.op_type for node in behind.graph.node if node.op_type != "Constant"]
    assert kinds == ["Conv", "Gather", "BatchNormalization", "Relu", "Conv", "Conv"]
    whole = [node.op_type for node in onnx_layer(convolution()).graph.node if node.op_type != "Constant"]
    assert whole == ["Conv", "Conv", "Conv"]


@pytest.mark.parametrize("runtime", ["onnxruntime", "torch"])
def test_times_are_remembered(runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second plan would measure for a minute again, and might decide otherwise."""
    threads = torch.get_num_threads() if runtime == "torch" else 1
    options = [convolution(), convolution(columns=4)]
    first = measured(runtime, threads=threads, folder=tmp_path).costs(options)
    assert all(time > 0 and math.isfinite(time) for time in first)
    monkeypatch.setattr(Measured, "_run", lambda *_: pytest.fail("measured again"))
    assert measured(runtime, threads=threads, folder=tmp_path).costs(options) == first


def test_time_stays_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that was timed again beside another option made the remembered plan another than the first."""
    moments = iter([[2.0, 4.0], [3.0, 9.0]])  # later the machine is slower by a half
    monkeypatch.setattr(sys.modules[Measured.__module__], "median_us", lambda *_, **__: next(moments))
    a, b, c = (convolution(columns=count) for count in (8, 6, 4))
    model = measured("onnxruntime", folder=tmp_path)
    assert model.costs([a, b]) == [2.0, 4.0]
    assert model.costs([a, c]) == [2.0, 6.0]
    assert model.costs([c, b, a]) == [6.0, 4.0, 2.0]
    assert measured("onnxruntime", folder=tmp_path).costs([a, b, c]) == [2.0, 4.0, 6.0]


def test_larger_layer_takes_longer(tmp_path: Path) -> None:
    """The order of costs is what plans rest on; the ratio of these is a hundred."""

    def square(width: int) -> LayerWork:
        return LayerWork("linear", width, width, width, width, (64,), (64,))

    small, large = measured("onnxruntime", folder=tmp_path).costs([square(16), square(1024)])
    assert large > 2 * small


def test_setting_that_changes_times_has_its_own_file(tmp_path: Path) -> None:
    """Times of another version or processor must not decide here."""
    one = TimeCache(tmp_path, {"runtime": "onnxruntime", "version": "1", "threads": "1"})
    one.put(convolution(), 3.5)
    one.save()
    assert TimeCache(tmp_path, one.setting).get(convolution()) == 3.5
    assert TimeCache(tmp_path, one.setting).get(convolution(columns=4)) is None
    assert TimeCache(tmp_path, one.setting | {"version": "2"}).get(convolution()) is None
    clash = TimeCache(tmp_path, one.setting | {"version": "1 "})  # the same file name
    assert clash.path == one.path
    assert clash.get(convolution()) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"us": 3}', '{"setting": {}, "us": {}}', "\ud800"])
def test_damaged_cache_counts_as_empty(content: str, tmp_path: Path) -> None:
    """A file cut short by a full disk must not stop every later run."""
    setting = {"runtime": "torch"}
    path = TimeCache(tmp_path, setting).path
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    cache = TimeCache(tmp_path, setting)
    assert cache.get(convolution()) is None
    cache.put(convolution(), 1.0)
    cache.save()
    assert json.loads(path.read_text())["setting"] == cache.setting


def test_times_of_another_process_stay(tmp_path: Path) -> None:
    """Two runs at once write the same file."""
    first, second = (TimeCache(tmp_path, {"runtime": "torch"}) for _ in range(2))
    first.put(convolution(), 1.0)
    second.put(convolution(columns=4), 2.0)
    first.save()
    second.save()
    assert TimeCache(tmp_path, {"runtime": "torch"}).get(convolution()) == 1.0


def test_functions_take_turns() -> None:
    """One after the other, a slow moment of the machine would be one option's."""
    order: list[str] = []
    median_us([lambda: order.append("a"), lambda: order.append("b")])
    assert order[:4] == ["a", "b", "a", "b"]
    assert {tuple(order[i : i + 2]) for i in range(0, len(order), 2)} == {("a", "b"), ("b", "a")}


def test_unknown_runtime_and_threads() -> None:
    """A typo, and a number of threads that eager code does not have."""
    with pytest.raises(UsageError, match="cannot measure on 'tflite'"):
        measured("tflite")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="set_num_threads"):
        measured("torch", threads=torch.get_num_threads() + 1)


def test_eager_code_has_no_blocks() -> None:
    """Filling widths buys nothing there."""
    assert preferred_block("torch") == 1
    assert preferred_block("onnxruntime") in {8, 16}
