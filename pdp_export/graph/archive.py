"""Saves and opens captured programs (.pt2), without ever running what a file contains.

torch's own loader is not safe (2.13): an archive can make it unpickle weights, constants and sample
inputs, evaluate size expressions as Python, compile names into code, import modules and load shared
libraries. So the whole file is read once, checked, and only those checked bytes are given to torch.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.pt2_archive import PT2ArchiveReader

from pdp_export.errors import FileError, UnsafeFileError
from pdp_export.files import atomic_path
from pdp_export.graph.archive_entries import (
    CONSTANTS_CONFIG,
    PROGRAM,
    SAMPLE_INPUTS,
    WEIGHTS_CONFIG,
    check_entries,
    check_nested_entries,
    entry_sizes,
)
from pdp_export.graph.archive_payloads import check_payloads, parse_json
from pdp_export.graph.archive_program import check_program
from pdp_export.graph.capture import quiet_export


def save_program(program: ExportedProgram, path: str | Path) -> None:
    """Write a program atomically, after proving that `load_program` accepts the very bytes written.

    Raises:
        FileError: the disk is full, or the program holds something that no safe archive can carry
            (custom objects, tensor subclasses, operators from outside torch).
    """
    path, buffer = Path(path), BytesIO()
    with quiet_export():
        torch.export.save(program, buffer)
    data = buffer.getvalue()
    try:
        _check(data, path.name)
    except UnsafeFileError as error:
        raise FileError(
            f"the program cannot be stored in a file that opens without running code: {error.what}",
            where=error.where,
            hint="remove custom objects, tensor subclasses and operators from outside torch from the model",
        ) from error
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def load_program(path: str | Path) -> ExportedProgram:
    """Open a .pt2 that anybody may have written.

    Raises:
        FileError: the file is missing, truncated, damaged or no .pt2 archive.
        UnsafeFileError: opening it with torch.export.load could run code; nothing was executed.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileError(
            f"{path.name} cannot be read: {error.strerror}", where=path.name, hint="check the path"
        ) from error
    _check(data, path.name)
    try:
        with quiet_export():
            program = torch.export.load(BytesIO(data))
    except Exception as error:
        raise FileError(
            f"{path.name} is damaged: {_first_line(error)}", where=path.name, hint="write it again with this version"
        ) from error
    # Source text that program.module() would compile. They only repeat checks on input sizes.
    program._guards_code = []
    return program


def _check(data: bytes, name: str) -> None:
    """Check every byte that torch will interpret. Nothing here unpickles, evaluates, compiles or imports."""
    root = check_entries(data, name)
    sizes = entry_sizes(data, root)
    try:
        reader = PT2ArchiveReader(BytesIO(data))
        contents = {
            entry: reader.read_bytes(entry) for entry in (PROGRAM, WEIGHTS_CONFIG, CONSTANTS_CONFIG, SAMPLE_INPUTS)
        }
    except Exception as error:
        raise FileError(f"{name} is damaged: {_first_line(error)}", where=name, hint="write it again") from error
    check_payloads(parse_json(contents[WEIGHTS_CONFIG], name, WEIGHTS_CONFIG), "data/weights/weight_", sizes, name)
    check_payloads(
        parse_json(contents[CONSTANTS_CONFIG], name, CONSTANTS_CONFIG), "data/constants/tensor_", sizes, name
    )
    check_program(parse_json(contents[PROGRAM], name, PROGRAM), name)
    _check_sample_inputs(contents[SAMPLE_INPUTS], name)


def _check_sample_inputs(data: bytes, name: str) -> None:
    """Refuse sample inputs that torch would unpickle with code: it falls back to that when weights_only fails."""
    if not data:
        return
    check_nested_entries(data, name)
    try:
        loaded: Any = torch.load(BytesIO(data), weights_only=True)
    except Exception as error:
        raise UnsafeFileError(
            f"{name} holds sample inputs that only a code-running unpickler would open; it was not executed",
            where=f"{name}: {SAMPLE_INPUTS}",
            hint="do not open this file; ask its author for one written by torch.export.save with plain tensors",
        ) from error
    if not isinstance(loaded, tuple | dict):
        raise FileError(f"{name} is damaged: its sample inputs are a {type(loaded).__name__}", where=name)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
