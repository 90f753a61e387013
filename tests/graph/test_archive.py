"""The guarded .pt2 reader: ordinary programs come back bit for bit, hostile files are refused and never executed."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pdp_export.errors import FileError, UnsafeFileError
from pdp_export.graph.archive import load_program, save_program
from pdp_export.graph.archive_entries import PROGRAM, SAMPLE_INPUTS, WEIGHTS_CONFIG
from pdp_export.graph.archive_program import check_program
from pdp_export.graph.capture import capture, quiet_export

Edit = Callable[[dict[str, bytes], str], None]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"conv-1": nn.Conv2d(3, 4, 3, padding="same"), "norm": nn.BatchNorm2d(4)})
        self.register_buffer("table", torch.ones(4, 1, 1), persistent=False)

    def forward(self, image: Tensor, size: Tensor, spare: Tensor) -> dict[str, Any]:
        features = self.layers["norm"](self.layers["conv-1"](image)) * self.table + torch.tensor([0.5])
        half = nn.functional.interpolate(features, size=(image.shape[2] // 2, 5))
        del spare
        return {"features": features.flatten(1), "more": (half, size.chunk(2, 1)[0])}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "net.pt2"
    inputs = (torch.randn(2, 3, 8, 8), torch.randn(2, 4), torch.ones(1))
    save_program(capture(Net(), inputs, {0: {0: "batch", 2: "height"}, 1: {0: "batch"}}), path)
    return path


def rewritten(saved: Path, target: Path, edit: Edit, compression: int = zipfile.ZIP_STORED) -> Path:
    """Write a copy of an archive with its entries edited."""
    with zipfile.ZipFile(saved) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    edit(entries, next(iter(entries)).split("/")[0])
    with zipfile.ZipFile(target, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return target


def in_json(entry: str, change: Callable[[Any], None]) -> Edit:
    """Return an edit that changes the parsed JSON of one entry."""

    def edit(entries: dict[str, bytes], root: str) -> None:
        document = json.loads(entries[f"{root}/{entry}"])
        change(document)
        entries[f"{root}/{entry}"] = json.dumps(document).encode()

    return edit


class Bomb:
    """Pickles to a call of os.mkdir(marker)."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.marker),))


def pickled_by_torch(marker: Path) -> bytes:
    buffer = BytesIO()
    torch.save((Bomb(marker),), buffer)
    return buffer.getvalue()


def pickled_weight(marker: Path) -> Edit:
    def edit(entries: dict[str, bytes], root: str) -> None:
        config = json.loads(entries[f"{root}/{WEIGHTS_CONFIG}"])
        record = next(iter(config["config"].values()))
        record["use_pickle"] = True
        entries[f"{root}/{WEIGHTS_CONFIG}"] = json.dumps(config).encode()
        entries[f"{root}/data/weights/{record['path_name']}"] = pickled_by_torch(marker)

    return edit


def pickled_inputs(marker: Path) -> Edit:
    def edit(entries: dict[str, bytes], root: str) -> None:
        entries[f"{root}/{SAMPLE_INPUTS}"] = pickled_by_torch(marker)

    return edit


def evaluated_size(marker: Path) -> Edit:
    def change(program: Any) -> None:
        tensors = program["graph_module"]["graph"]["tensor_values"].values()
        sizes = [size for tensor in tensors for size in tensor["sizes"] if "as_expr" in size]
        sizes[0]["as_expr"]["expr_str"] = f"__import__('os').mkdir({str(marker)!r})"

    return in_json(PROGRAM, change)


def compiled_name(marker: Path) -> Edit:
    def edit(entries: dict[str, bytes], root: str) -> None:
        text = entries[f"{root}/{PROGRAM}"].decode()
        hostile = f"spare=__import__('os').mkdir({str(marker)!r})"
        entries[f"{root}/{PROGRAM}"] = (
            text.replace('"name": "spare"', f'"name": "{hostile}"').replace('"spare": {', f'"{hostile}": {{').encode()
        )

    return edit


ATTACKS = [pickled_weight, pickled_inputs, evaluated_size, compiled_name]


@pytest.mark.parametrize("attack", ATTACKS)
def test_hostile_archive_is_refused_without_executing(
    saved: Path, tmp_path: Path, attack: Callable[[Path], Edit]
) -> None:
    """torch.export.load runs the payload of each of these; if it ever stops, the attack proves nothing."""
    marker = tmp_path / "executed"
    hostile = rewritten(saved, tmp_path / "hostile.pt2", attack(marker))
    with pytest.raises(UnsafeFileError) as refusal:
        load_program(hostile)
    assert not marker.exists()
    assert "not executed" in str(refusal.value)

    torch_opens_it(hostile)
    assert marker.exists()


def torch_opens_it(path: Path) -> None:
    with quiet_export():
        try:
            torch.export.load(path)
        except Exception as error:
            del error


def test_roundtrip_keeps_every_bit(saved: Path) -> None:
    """A reader so strict that an ordinary program with dynamic sizes, constants and odd names is refused."""
    inputs = (torch.randn(3, 3, 12, 8), torch.randn(3, 4), torch.ones(1))
    program = load_program(saved)
    again = load_program(saved)
    first, second = program.module()(*inputs), again.module()(*inputs)
    assert list(first) == ["features", "more"]
    assert torch.equal(first["features"], second["features"])
    assert torch.equal(first["more"][0], second["more"][0])
    assert "layers.conv-1.weight" in program.state_dict


def test_no_path_of_this_machine_is_stored(saved: Path) -> None:
    """Torch stores the stack of every operator, with absolute paths, in a file that travels."""
    with zipfile.ZipFile(saved) as archive:
        assert not any(str(Path(__file__).parent).encode() in archive.read(name) for name in archive.namelist())


def add(entry: str, data: bytes = b"x") -> Edit:
    def edit(entries: dict[str, bytes], root: str) -> None:
        entries[f"{root}/{entry}"] = data

    return edit


def drop(entry: str) -> Edit:
    def edit(entries: dict[str, bytes], root: str) -> None:
        del entries[f"{root}/{entry}"]

    return edit


def payload_path(path: str) -> Edit:
    return in_json(WEIGHTS_CONFIG, lambda config: next(iter(config["config"].values())).update(path_name=path))


def huge_shape(config: Any) -> None:
    next(iter(config["config"].values()))["tensor_meta"]["sizes"][0] = {"as_int": 1 << 40}


def escaping_entry(entries: dict[str, bytes], _: str) -> None:
    entries["../outside"] = b"x"


@pytest.mark.parametrize(
    "edit",
    [
        add("data/aotinductor/model/model.so"),
        add("data/constants/custom_obj_0"),
        add("data/constants/opaque_obj_0", pickle.dumps(1)),
        add("data/weights/model.pt"),
        add("unknown.bin"),
        add("DATA/weights/WEIGHT_0"),
        add("../../outside"),
        escaping_entry,
        payload_path("../weights/weight_0"),
        payload_path("weight_0/../../../etc/passwd"),
        in_json(WEIGHTS_CONFIG, huge_shape),
    ],
)
def test_dangerous_entries_are_refused(saved: Path, tmp_path: Path, edit: Edit) -> None:
    """Native code, pickles, paths out of the archive, doubled names and claimed sizes, each by its own rule."""
    with pytest.raises(UnsafeFileError):
        load_program(rewritten(saved, tmp_path / "hostile.pt2", edit))


def test_compressed_entries_are_refused(saved: Path, tmp_path: Path) -> None:
    """A small file that unpacks to fill the memory."""
    bomb = rewritten(saved, tmp_path / "bomb.pt2", add("extra/zeros", bytes(1 << 20)), zipfile.ZIP_DEFLATED)
    with pytest.raises(UnsafeFileError, match="compressed"):
        load_program(bomb)


@pytest.mark.parametrize("keep", [0, 0.001, 0.01, 0.5, 0.99])
def test_truncated_file(saved: Path, tmp_path: Path, keep: float) -> None:
    """An interrupted download ends in a traceback of zipfile."""
    data = saved.read_bytes()
    path = tmp_path / "short.pt2"
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(FileError):
        load_program(path)


@pytest.mark.parametrize("edit", [drop(PROGRAM), drop("archive_version"), drop("data/weights/weight_0")])
def test_missing_entries(saved: Path, tmp_path: Path, edit: Edit) -> None:
    """An incomplete archive ends in torch's bare assertion."""
    with pytest.raises(FileError):
        load_program(rewritten(saved, tmp_path / "lacking.pt2", edit))


def test_foreign_files(tmp_path: Path) -> None:
    """A state dict or a text file called .pt2 is reported as what it is not, without unpickling."""
    torch.save({"weight": torch.ones(1)}, tmp_path / "state.pt2")
    (tmp_path / "text.pt2").write_text("hello")
    for name in ("state.pt2", "text.pt2", "absent.pt2"):
        with pytest.raises(FileError):
            load_program(tmp_path / name)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("target", "torch.os.system"),
        ("target", "torch.ops.aten.from_file.default"),
        ("target", "_operator.attrgetter"),
        ("target", "torch.ops.mylib.anything.default"),
        ("as_operator", "torch.load"),
        ("expr_str", "Symbol('a b')"),
        ("expr_str", "().__class__"),
        ("expr_str", "Pow(Integer(9), Integer(999999999))"),
        ("in_spec", '[1, {"type": "collections.defaultdict", "context": "{}", "children_spec": []}]'),
        ("out_spec", '[1, {"type": "builtins.dict", "context": "{\\"__enum__\\": 1}", "children_spec": []}]'),
        ("in_spec", '[1, {"type": "builtins.dict", "context": "[\\"x=exit()\\"]", "children_spec": []}]'),
        ("buffer_name", 'a"); exit(); ("'),
        ("class_fqn", "anything"),
    ],
)
def test_text_that_torch_would_run(key: str, text: str) -> None:
    """Each place where torch evaluates, compiles, imports or resolves text has a whitelist."""
    with pytest.raises(UnsafeFileError):
        check_program({"graph_module": {"graph": {key: text}}}, "hostile.pt2")


def test_program_that_no_safe_archive_holds(tmp_path: Path) -> None:
    """A program with a foreign operator is saved, and cannot be opened by anybody afterwards."""

    @torch.library.custom_op("pdp_export_tests::twice", mutates_args=())
    def twice(x: Tensor) -> Tensor:
        return x * 2

    @twice.register_fake
    def _(x: Tensor) -> Tensor:
        return torch.empty_like(x)

    class Foreign(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return twice(x)

    with pytest.raises(FileError, match="without running code"):
        save_program(capture(Foreign(), (torch.randn(2, 2),)), tmp_path / "foreign.pt2")
    assert not list(tmp_path.iterdir())
