"""Models that one .onnx file cannot hold: a second file with the weights, and what a stranger may write there."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from pdp_export import files, onnx_external
from pdp_export.converters import onnx_sparse
from pdp_export.converters.onnx_export import convert
from pdp_export.errors import ConversionError, FileError
from pdp_export.pipeline import onnx_files
from pdp_export.results import TensorSpec
from pdp_export.runtimes import onnx_runtime
from pdp_export.runtimes.onnx_expand import expand
from pdp_export.targets import ConvertRequest
from tests.converters.onnx_networks import capture, prune
from tests.runtimes.test_onnx_expand import network


@pytest.fixture
def small_files(monkeypatch):
    """Let a file end at 4,000 bytes, so that no test writes 2 GiB."""
    monkeypatch.setattr(onnx_external, "_LIMIT", 4000)
    monkeypatch.setattr(onnx_external, "_SMALLEST", 200)


@pytest.fixture
def pair(request, tmp_path):
    """Return an .onnx file with sparse weights, its twin in one file, and an input."""
    request.getfixturevalue("small_files")
    model = network()
    onnx_sparse.encode(model, "auto")
    one = tmp_path / "one.onnx"
    one.write_bytes(model.SerializeToString())
    with files.atomic_path(tmp_path / "two.onnx") as temporary:
        onnx_external.write(model, temporary)
    x = np.random.default_rng(1).normal(size=(3, 64)).astype(np.float32)
    return tmp_path / "two.onnx", one, {"x": x}


def test_two_files_are_one_model(pair, tmp_path):
    """Weights lost between the files, a temporary name in them, or a runtime that does not find them."""
    two, one, x = pair
    data = tmp_path / "two.onnx.data"
    assert two.stat().st_size < 4000 < data.stat().st_size
    assert {item.value for tensor in onnx.load(two, load_external_data=False).graph.initializer
            for item in tensor.external_data if item.key == "location"} == {data.name}  # fmt: skip
    assert not list(tmp_path.glob(".*"))
    expected, found = onnx_runtime.describe(one), onnx_runtime.describe(two)
    assert found.tensors == expected.tensors
    assert found.file_bytes == two.stat().st_size + data.stat().st_size == files.size_bytes(two)
    for left, right in zip(onnx_runtime.weights(one), onnx_runtime.weights(two), strict=True):
        assert left.values.tobytes() == right.values.tobytes()
    answers = [onnx_runtime.open_session(path).run(x)["y"] for path in (one, two)]
    assert np.array_equal(*answers)
    assert np.array_equal(answers[0], onnxruntime.InferenceSession(str(two)).run(None, x)[0])
    assert "ScatterElements" not in onnx_runtime.optimized_operators(two)


def test_expanding_two_files_gives_the_dense_model(pair, tmp_path):
    """The dense file has a second one as well, under its final name, through the door that users take."""
    two, one, _ = pair
    (tmp_path / "dense").mkdir()
    with files.atomic_path(tmp_path / "dense/m.onnx") as temporary:
        expand(two, temporary)
    assert sorted(path.name for path in (tmp_path / "dense").iterdir()) == ["m.onnx", "m.onnx.data"]
    stored = {weight.name: weight.values for weight in onnx_runtime.weights(tmp_path / "dense/m.onnx")}
    assert all(np.array_equal(stored[weight.name], weight.values) for weight in onnx_runtime.weights(one))
    onnx_files.expand(two, tmp_path / "whole.onnx")  # the child has the real limit
    assert not (tmp_path / "whole.onnx.data").exists()


@pytest.mark.usefixtures("small_files")
def test_the_converter_writes_two_files(tmp_path):
    """Same bytes each time; the proof reads both, and so do ONNX's own checker and ONNX Runtime."""
    torch.manual_seed(0)
    model = prune(nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 32)), 0.8)
    program = capture(model, torch.randn(2, 64))
    request = ConvertRequest(inputs=(TensorSpec(name="x", shape=(2, 64), dynamic={0: "n"}),), outputs=("y",))
    written = []
    for _ in range(2):
        convert(program, tmp_path / "m.onnx", request)
        written.append([path.read_bytes() for path in sorted(tmp_path.iterdir())])
    assert len(written[0]) == 2
    assert written[0] == written[1]
    onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)
    x = torch.randn(5, 64)
    answer = onnx_runtime.open_session(tmp_path / "m.onnx").run({"x": x.numpy()})["y"]
    assert np.abs(answer - model(x).detach().numpy()).max() < 1e-5


def test_int8_of_two_files_is_refused_before_work(monkeypatch):
    """ONNX Runtime's quantizer reads one file; it would fail after the export, with a page of text."""
    from pdp_export.converters import onnx_export

    monkeypatch.setattr(onnx_export, "PROTOBUF_LIMIT", 4000)
    program = capture(nn.Linear(64, 96), torch.randn(2, 64))
    spec = TensorSpec(name="x", shape=(2, 64), dynamic={0: "n"})
    with pytest.raises(ConversionError, match="GiB of weights"):
        onnx_export.check(
            program, ConvertRequest(inputs=(spec,), outputs=("y",), precision="int8"), "unstructured"
        )  # fmt: skip


def test_one_file_replaces_two(pair, tmp_path):
    """A companion that stays behind would count into the size of a file that does not need it."""
    two, one, _ = pair
    with files.atomic_path(two) as temporary:
        temporary.write_bytes(one.read_bytes())
    assert not (tmp_path / "two.onnx.data").exists()
    assert files.size_bytes(two) == one.stat().st_size


def test_a_failure_leaves_the_old_pair(pair, tmp_path):
    """Neither half of a pair may be replaced alone."""
    two, _, _ = pair
    before = files.sha256(two)

    def fail() -> None:
        with files.atomic_path(two) as temporary:
            onnx_external.write(network(0.5), temporary)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert files.sha256(two) == before
    assert not list(tmp_path.glob(".*"))


def claiming(**entries: str) -> bytes:
    """A model whose weight claims to lie elsewhere."""
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        weight.external_data.add(key=key, value=value)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])], "g", [helper.make_tensor_value_info("x", 1, [4])],
        [helper.make_tensor_value_info("y", 1, [4])], [weight, numpy_helper.from_array(np.ones(4, np.float32), "v")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        *(({"location": name}, "only a file beside it") for name in (
            "../secret", "/etc/passwd", "a/b", "..", ".", "", "C:x", "..\\secret", "w.data\0x",
        )),
        ({"location": "absent"}, "is not beside it"),
        ({"location": "folder"}, "is not beside it"),
        ({"location": "out"}, "leads out of the folder"),
        ({"location": "w.data", "offset": "1"}, "does not hold what it claims"),
        ({"location": "w.data", "offset": "8", "length": "16"}, "behind the end"),
        ({"location": "w.data", "offset": "-8"}, "begins or ends at '-8'"),
        ({"location": "w.data", "length": "1e3"}, "begins or ends"),
        ({"location": "w.data", "length": "9" * 40}, "begins or ends"),
        ({"location": "w.data", "length": "9" * 18}, "behind the end"),
        ({"location": "w.data", "length": "8"}, "does not hold what it claims"),
    ],
)  # fmt: skip
def test_other_places_are_refused(entries, message, tmp_path):
    """A model file must not read what its writer has no right to, nor bytes that are not there."""
    folder = tmp_path / "in"
    (folder / "folder").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(bytes(16))
    (folder / "w.data").write_bytes(bytes(16))
    (folder / "out").symlink_to(tmp_path / "secret")
    (folder / "m.onnx").write_bytes(claiming(**entries))
    for opened in (onnx_runtime.describe, onnx_runtime.open_session, lambda path: expand(path, tmp_path / "o.onnx")):
        with pytest.raises(FileError, match=message):
            opened(folder / "m.onnx")
    assert not (tmp_path / "o.onnx").exists()


def test_sharing_bytes_is_refused(tmp_path):
    """A thousand tensors that each claim the whole file would need a thousand times its size."""
    model = onnx.ModelProto.FromString(claiming(location="w.data"))
    model.graph.initializer.add().CopyFrom(model.graph.initializer[0])
    (tmp_path / "w.data").write_bytes(bytes(16))
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(FileError, match="more bytes than"):
        onnx_runtime.describe(tmp_path / "m.onnx")
