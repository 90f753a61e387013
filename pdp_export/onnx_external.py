"""ONNX models over 2 GiB: one ``.onnx`` file and, beside it, one ``.onnx.data`` file with the large tensors.

A protobuf message holds less than 2 GiB, so ONNX lets a tensor name a file, an offset and a length instead of its
bytes (``external_data``). Such a name is a path that a stranger may have written: only a plain file name in the same
folder is followed, and only bytes that are there, each of them once.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pdp_export.errors import FileError
from pdp_export.files import companion_of, final_name

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

_LIMIT = (1 << 31) - 1
"""Bytes of one .onnx file."""
_SMALLEST = 1024
"""Tensors below stay in the .onnx file: shapes and sizes have to be known without the other one."""
_ALIGNMENT = 4096
"""Offsets are multiples of a page, so that a runtime can map the file."""


def write(model: ModelProto, path: Path) -> None:
    """Write `model` to `path`; if one file cannot hold it, its large tensors to the companion of `path`.

    The .onnx file names the companion by its final name (see `files.atomic_path`). The same model gives the same bytes.
    Tensors that were moved have no data in `model` afterwards.
    """
    if not _fits(model):
        _move(model, path)
    path.write_bytes(model.SerializeToString(deterministic=True))


def read_back(path: Path) -> tuple[ModelProto, ModelProto]:
    """Return what `write` left at `path`, whole, and the same with large tensors as inputs, for checkers.

    The companion is looked up by the name it has now, not by the one it will have.
    """
    import onnx

    data = path.read_bytes()
    whole: ModelProto = onnx.ModelProto.FromString(data)
    moved = [item for item in whole.graph.initializer if is_external(item)]
    if not moved:
        return whole, whole
    _fill(moved, companion_of(path), path)
    light = onnx.ModelProto.FromString(data)
    kept = [item for item in light.graph.initializer if not is_external(item)]
    light.graph.input.extend(
        onnx.helper.make_tensor_value_info(item.name, item.data_type, list(item.dims)) for item in moved
    )
    del light.graph.initializer[:]
    light.graph.initializer.extend(kept)
    return whole, light


def is_external(tensor: TensorProto) -> bool:
    """Whether the data of a tensor lie in another file, or claim to."""
    from onnx import TensorProto

    return tensor.data_location == TensorProto.EXTERNAL or bool(tensor.external_data)


def inline(tensors: Iterable[TensorProto], path: Path) -> int:
    """Read the data of all external tensors of the file `path` into them; return the bytes of the other file.

    Raises:
        FileError: a location that is no plain file name, two of them, a file that is missing or elsewhere, an offset or
            a length outside of it, tensors that share bytes.
    """
    outside = [tensor for tensor in tensors if is_external(tensor)]
    locations = sorted({_entries(tensor).get("location", "") for tensor in outside})
    if not locations:
        return 0
    if len(locations) > 1:
        raise damaged(path, f"its weights lie in {len(locations)} other files; one is read")
    data = path.parent / _plain(locations[0], path)
    if not data.is_file():
        raise damaged(path, f"the file {data.name} with its weights is not beside it")
    if data.resolve().parent != path.parent.resolve():
        raise damaged(path, f"{data.name} is a link that leads out of the folder")
    _fill(outside, data, path)
    return data.stat().st_size


def _fits(model: ModelProto) -> bool:
    from google.protobuf.message import EncodeError  # type: ignore[import-untyped]  # protobuf ships no types

    if sum(len(item.raw_data) for item in model.graph.initializer) > _LIMIT:
        return False
    try:
        return bool(model.ByteSize() <= _LIMIT)
    except EncodeError:  # protobuf does not even count beyond 2 GiB
        return False


def _move(model: ModelProto, path: Path) -> None:
    from onnx import TensorProto

    location = companion_of(Path(final_name(path))).name
    with companion_of(path).open("wb") as stream:
        for item in model.graph.initializer:
            if len(item.raw_data) < _SMALLEST:
                continue
            stream.write(bytes(-stream.tell() % _ALIGNMENT))
            entries = {"location": location, "offset": str(stream.tell()), "length": str(len(item.raw_data))}
            stream.write(item.raw_data)
            item.ClearField("raw_data")
            item.data_location = TensorProto.EXTERNAL
            for key, value in entries.items():
                item.external_data.add(key=key, value=value)


def _fill(tensors: list[TensorProto], data: Path, path: Path) -> None:
    left = size = data.stat().st_size
    with data.open("rb") as stream:
        for tensor in tensors:
            entries = _entries(tensor)
            offset = _number(entries.get("offset", "0"), tensor, path)
            length = _number(entries.get("length", str(max(size - offset, 0))), tensor, path)
            if offset + length > size:
                raise damaged(path, f"tensor {tensor.name!r} ends behind the end of {data.name}", tensor.name)
            left -= length
            if left < 0:
                raise damaged(path, f"its tensors hold more bytes than {data.name}", tensor.name)
            stream.seek(offset)
            tensor.raw_data = stream.read(length)
            tensor.ClearField("data_location")
            del tensor.external_data[:]


def _entries(tensor: TensorProto) -> dict[str, str]:
    return {item.key: item.value for item in tensor.external_data}


def _plain(location: str, path: Path) -> str:
    if location in ("", ".", "..") or any(letter in location for letter in "/\\:\0"):
        raise damaged(path, f"its weights lie at {location!r}; only a file beside it is opened")
    return location


def _number(text: str, tensor: TensorProto, path: Path) -> int:
    digits = 19
    if not (text.isascii() and text.isdigit() and len(text) <= digits):
        raise damaged(path, f"tensor {tensor.name!r} begins or ends at {text!r}", tensor.name)
    return int(text)


def damaged(path: Path, what: str, where: str | None = None) -> FileError:
    """Return the error for a file whose content cannot be right."""
    return FileError(
        f"{path.name} is not a usable ONNX file: {what}", where=where or path.name, hint="convert the model again"
    )
