"""The weights of a program as arrays: the contract that every file is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_MATRIX = 2


def program_weights(program: ExportedProgram) -> dict[str, np.ndarray[Any, Any]]:
    """Return every parameter of rank >= 2 by name, float32, in PyTorch layout (C_out, C_in/groups, kH, kW)."""
    names = set(program.graph_signature.parameters)
    return {
        name: tensor.detach().float().numpy()
        for name, tensor in program.state_dict.items()
        if name in names and tensor.dim() >= _MATRIX
    }
