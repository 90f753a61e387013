"""Saved packages: what they hold, and every kind of damage, detected from their own bytes."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from pdp_export.converters import coreml_export
from pdp_export.errors import FileError
from pdp_export.files import size_bytes
from pdp_export.graph.capture import capture
from pdp_export.results import TensorSpec
from pdp_export.runtimes import coreml_package
from pdp_export.runtimes.coreml_files import PackageFiles
from pdp_export.runtimes.coreml_proto import new_model
from pdp_export.targets import ConvertRequest

SETTINGS = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
WEIGHTS = Path("Data/com.apple.CoreML/weights/weight.bin")
MODEL = Path("Data/com.apple.CoreML/model.mlmodel")
MANIFEST = Path("Manifest.json")
ELEMENTS = 16 * 32 * 9


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 16, 3)
        self.body = nn.Conv2d(16, 32, 3)
        self.head = nn.Linear(32, 5)
        with torch.no_grad():
            self.body.weight[self.body.weight.abs() < 0.06] = 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.body(torch.relu(self.stem(image)))).mean((2, 3)))


def _convert(path: Path, min_ios: int) -> None:
    image = torch.zeros(2, 3, 8, 8)
    program = capture(Net().eval(), (image,))
    request = ConvertRequest(
        inputs=(TensorSpec(name="image", shape=tuple(image.shape)),), outputs=("logits",),
        precision="fp16", encoding="sparse", metadata={"labels": "a,b"}, options={"min_ios": min_ios},
    )  # fmt: skip
    coreml_export.convert(program, path, request)


@pytest.fixture(scope="module", params=[16, 18])
def original(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One sparse package in the iOS 16 form (mask of bytes, attributes) and one in the iOS 18 form (mask of bits)."""
    path = tmp_path_factory.mktemp("packages") / "net.mlpackage"
    _convert(path, request.param)
    return path


@pytest.fixture
def package(original: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(original, tmp_path / "net.mlpackage")
    return tmp_path / "net.mlpackage"


def _decoded(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    return {weight.name: weight.values for weight in coreml_package.weights(path)}


def _change_byte(path: Path, position: int, change: Callable[[int], int]) -> None:
    data = bytearray(path.read_bytes())
    data[position] = change(data[position])
    path.write_bytes(data)


def _sparse_data(path: Path) -> tuple[int, int]:
    """Return where the non-zero values and the mask of the sparse tensor start in weight.bin."""
    blobs = PackageFiles(path).weights("@model_path/weights/weight.bin")._blobs
    mask = next(offset for offset, blob in blobs.items() if blob.kind.startswith("UINT"))
    values = max(offset for offset in blobs if offset < mask)
    return values + 64, mask + 64


def _differing(path: Path, original: Path) -> int:
    mine, theirs = _decoded(path), _decoded(original)
    return sum(int(np.count_nonzero(mine[name] != theirs[name])) for name in theirs)


def test_the_description_is_what_was_asked_for(original: Path):
    """Pins lost names, shapes, metadata or encodings, and figures not taken from the file."""
    facts = coreml_package.describe(original)
    assert facts.format == coreml_package.NAME == "coreml"
    assert facts.file_bytes == size_bytes(original)
    assert [(item.name, item.shape, item.dtype) for item in facts.inputs] == [("image", (2, 3, 8, 8), "float32")]
    assert [(item.name, item.shape, item.dtype) for item in facts.outputs] == [("logits", (2, 5), "float32")]
    assert facts.metadata["labels"] == "a,b"
    assert facts.operators["constexpr_sparse_to_dense"] == 1
    assert facts.operators["conv"] == 2
    assert facts.encodings == {"sparse": 1, "dense": 5}
    sparse = next(tensor for tensor in facts.tensors if tensor.encoding == "sparse")
    net = Net()
    assert sparse.zeros == int((net.body.weight == 0).sum()) > ELEMENTS / 2
    assert sparse.stored_bytes < ELEMENTS  # under half of dense fp16
    assert facts.elements == sum(parameter.numel() for parameter in net.parameters())


def test_weights_are_the_rounded_torch_weights_bit_by_bit(original: Path):
    """Pins wrong layouts, wrong places and lost or new zeros."""
    decoded = _decoded(original)
    expected = {name: p for name, p in Net().named_parameters() if p.dim() > 1}
    assert set(decoded) == {name.replace(".", "_") for name in expected}
    for name, parameter in expected.items():
        values = decoded[name.replace(".", "_")]
        assert values.dtype == np.float16
        assert values.tobytes() == parameter.detach().half().numpy().tobytes()


def test_reading_does_not_import_coremltools_or_torch(original: Path):
    """Pins the six seconds and the noise that importing coremltools costs `inspect`."""
    code = (
        "import sys; from pathlib import Path; from pdp_export.runtimes import coreml_package as c;"
        f"c.describe(Path({str(original)!r})); c.weights(Path({str(original)!r}));"
        "assert not {'coremltools', 'torch'} & set(sys.modules), 'imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_flipped_mask_bit_is_refused(package: Path):
    """Pins values that slide by one place: the set bits must equal the stored values."""
    _, mask = _sparse_data(package)
    _change_byte(package / WEIGHTS, mask + 3, lambda byte: byte ^ 0b100)
    with pytest.raises(FileError, match="bits set"):
        coreml_package.weights(package)


def test_every_moved_mask_bit_changes_exactly_two_weights(package: Path, original: Path):
    """Pins the damage that output parity misses 28 times of 30: a bit moved one place, the count unchanged."""
    start, tried = _sparse_data(package)[1], 0
    clean = (package / WEIGHTS).read_bytes()
    for position in range(start, start + 40):
        byte = clean[position]
        if byte & 0b11 not in (0b01, 0b10):
            continue
        _change_byte(package / WEIGHTS, position, lambda value: value ^ 0b11)
        assert _differing(package, original) == 2
        (package / WEIGHTS).write_bytes(clean)
        tried += 1
    assert tried > 5


def test_a_flipped_value_bit_changes_exactly_one_weight(package: Path, original: Path):
    """Pins a comparison that looks at zero patterns only."""
    values, _ = _sparse_data(package)
    _change_byte(package / WEIGHTS, values + 10, lambda byte: byte ^ 1)
    assert _differing(package, original) == 1


def test_swapped_values_are_seen(package: Path, original: Path):
    """Pins a comparison of sorted or summed values."""
    values, _ = _sparse_data(package)
    data = bytearray((package / WEIGHTS).read_bytes())
    data[values : values + 2], data[values + 2 : values + 4] = data[values + 2 : values + 4], data[values : values + 2]
    (package / WEIGHTS).write_bytes(data)
    assert _differing(package, original) == 2


@SETTINGS
@given(data=st.data())
def test_no_damage_crashes_the_reader(original: Path, tmp_path: Path, data: st.DataObject):
    """Pins any exception but FileError for a file with changed or missing bytes, wherever they are."""
    package = tmp_path / "net.mlpackage"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(original, package)
    path = package / data.draw(st.sampled_from([WEIGHTS, MODEL, MANIFEST]))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.sampled_from([len(content), len(content) - 1, len(content) // 2]))])
    with contextlib.suppress(FileError):
        coreml_package.describe(package)
        coreml_package.weights(package)


def _edit_model(package: Path, edit: Callable[[Any], None]) -> None:
    model = new_model()
    model.ParseFromString((package / MODEL).read_bytes())
    edit(model)
    (package / MODEL).write_bytes(model.SerializeToString())


def _operations(model: Any) -> Any:
    function = model.mlProgram.functions["main"]
    return function.block_specializations[function.opset].operations


def _first_blob(model: Any) -> Any:
    return next(
        operation.attributes["val"].blobFileValue
        for operation in _operations(model)
        if operation.type == "const" and operation.attributes["val"].HasField("blobFileValue")
    )


@pytest.mark.parametrize(
    "name", ["@model_path/../../../../secret.bin", "/etc/passwd", "@model_path//etc/passwd", "weights/weight.bin"]
)
def test_a_weight_file_outside_the_package_is_not_opened(package: Path, name: str):
    """Pins reading a file of the machine because a foreign package names it."""
    shutil.copy(package / WEIGHTS, package.parent / "secret.bin")
    _edit_model(package, lambda model: setattr(_first_blob(model), "fileName", name))
    with pytest.raises(FileError, match=r"leads out of the package|outside @model_path"):
        coreml_package.weights(package)


@pytest.mark.parametrize("member", [WEIGHTS, MODEL])
def test_a_link_out_of_the_package_is_not_followed(package: Path, member: Path):
    """Pins a symbolic link that smuggles another file in."""
    (package / member).rename(package.parent / "elsewhere")
    (package / member).symlink_to(package.parent / "elsewhere")
    with pytest.raises(FileError, match="leads out of the package"):
        coreml_package.describe(package)


@pytest.mark.parametrize(
    "manifest",
    [
        "", "[]", "{}", "{", '{"itemInfoEntries": {}, "rootModelIdentifier": "x"}', "[" * 5000,
        json.dumps({"itemInfoEntries": {"x": {"path": "../../elsewhere"}}, "rootModelIdentifier": "x"}),
        json.dumps({"itemInfoEntries": {"x": {"path": 3}}, "rootModelIdentifier": "x"}),
        json.dumps({"itemInfoEntries": {"x": {"path": "absent"}}, "rootModelIdentifier": "x"}),
    ],
)  # fmt: skip
def test_a_wrong_manifest_is_refused(package: Path, manifest: str):
    """Pins a traceback, or another file opened, for a manifest that does not name the model."""
    (package.parent / "elsewhere").write_bytes((package / MODEL).read_bytes())
    (package / MANIFEST).write_text(manifest)
    with pytest.raises(FileError):
        coreml_package.describe(package)


@pytest.mark.parametrize("member", [WEIGHTS, MODEL, MANIFEST])
def test_a_missing_member_is_named(package: Path, member: Path):
    """Pins a bare FileNotFoundError."""
    (package / member).unlink()
    with pytest.raises(FileError, match=member.name):
        coreml_package.describe(package)


def test_a_file_is_not_a_package(tmp_path: Path):
    """Pins opening a renamed file as a directory."""
    (tmp_path / "x.mlpackage").write_bytes(b"zip")
    with pytest.raises(FileError, match="not a directory"):
        coreml_package.describe(tmp_path / "x.mlpackage")


def test_another_kind_of_model_is_refused(package: Path):
    """Pins an empty, therefore clean, description of an old neuralNetwork model."""
    _edit_model(package, lambda model: model.neuralNetwork.SetInParent())
    with pytest.raises(FileError, match="neuralNetwork"):
        coreml_package.describe(package)


def test_weights_in_an_unknown_form_are_listed_but_never_skipped(package: Path):
    """Pins a weight check that passes because it did not see the palettized weights."""

    def to_future(model: Any) -> None:
        next(op for op in _operations(model) if op.type.startswith("constexpr")).type = "constexpr_of_the_future"

    _edit_model(package, to_future)
    assert any("constexpr_of_the_future" in note for note in coreml_package.describe(package).notes)
    for use in (coreml_package.weights, coreml_package.open_session):
        with pytest.raises(FileError, match="constexpr_of_the_future"):
            use(package)


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS runs it in Core ML")
def test_off_macos_the_interpreter_runs_the_package_and_is_never_timed(package: Path):
    """Pins NOT RUN where the interpreter can execute the file, and an interpreter's time reported as a latency."""
    session = coreml_package.open_session(package)
    image = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    with torch.no_grad():
        expected = Net().eval()(torch.from_numpy(image)).numpy()
    got = session.run({"image": image})["logits"]
    assert got.dtype == np.float32
    assert np.abs(got - expected).max() < 5e-3 * np.abs(expected).max()
    assert coreml_package.execution().why_not_timed
    (package / WEIGHTS).unlink()
    with pytest.raises(FileError):
        coreml_package.open_session(package)
