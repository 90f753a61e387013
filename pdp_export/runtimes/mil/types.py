"""MIL's element types as the interpreter carries them: halves live in float32, rounded; integers in their own type."""

from __future__ import annotations

import torch

from pdp_export.errors import NotRunnableError

HALF = "FLOAT16"
_CARRIED: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "FLOAT16": torch.float32,
    "FLOAT32": torch.float32,
    "INT8": torch.int8,
    "UINT8": torch.uint8,
    "INT16": torch.int16,
    "UINT16": torch.int32,  # torch computes little with uint16
    "INT32": torch.int32,
    "UINT32": torch.int64,
    "INT64": torch.int64,
}
_SPELLED = {
    "bool": "BOOL", "fp16": "FLOAT16", "fp32": "FLOAT32", "int8": "INT8", "uint8": "UINT8", "int16": "INT16",
    "uint16": "UINT16", "int32": "INT32", "uint32": "UINT32", "int64": "INT64",
}  # fmt: skip


def torch_type(spelled: str) -> torch.dtype:
    """Return the carried type for a type name as operators spell it ("fp16", "int32").

    Raises:
        NotRunnableError: for a type that is not computed here.
    """
    return carried(_SPELLED.get(spelled, spelled))


def carried(kind: str) -> torch.dtype:
    """Return the carried type for MIL's own name ("FLOAT16", "INT32").

    Raises:
        NotRunnableError: for a type that is not computed here.
    """
    if kind not in _CARRIED:
        raise NotRunnableError(f"values of type {kind} are not computed here", hint="run this file on a Mac")
    return _CARRIED[kind]
