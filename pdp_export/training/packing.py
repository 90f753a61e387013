"""Tensors and JSON values as one run of bytes: safetensors, with the JSON as one more tensor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

_JSON = "json"


def pack(tensors: Mapping[str, Tensor], meta: Any) -> bytes:
    """Return bytes from which `unpack` makes the same tensors (on the processor) and JSON values."""
    text = torch.frombuffer(bytearray(json.dumps(meta).encode()), dtype=torch.uint8)
    copies = {f"tensor.{name}": value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    return bytes(save({**copies, _JSON: text}))


def unpack(content: bytes) -> tuple[dict[str, Tensor], Any]:
    """Return what `pack` was given."""
    tensors = load(content)
    meta = json.loads(tensors.pop(_JSON).numpy().tobytes())
    return {name.removeprefix("tensor."): value for name, value in tensors.items()}, meta
