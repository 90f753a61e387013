"""Real samples that show a quantizer the range of every activation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from pdp_export.pipeline.context import Context
from pdp_export.recipe import Recipe
from pdp_export.tasks.data import unpack

Array = np.ndarray[Any, Any]

SAMPLES = 256
"""Samples that are taken from the loader "calibration"; more change a range of activations little."""


def needed(recipe: Recipe) -> bool:
    """Whether some target is quantized."""
    return any(section.precision == "int8" for section in recipe.targets)


def write(context: Context, folder: Path) -> Path:
    """Write the first samples of the calibration loader, by input name, and return the file."""
    names = context.input_names
    parts: list[tuple[Array, ...]] = []
    count = 0
    for batch in context.data.calibration:
        inputs, _ = unpack(batch, names)
        parts.append(tuple(tensor.numpy() for tensor in inputs))
        count += len(inputs[0])
        if count >= SAMPLES:
            break
    return save(
        {name: np.concatenate(arrays)[:SAMPLES] for name, arrays in zip(names, zip(*parts, strict=True), strict=True)},
        folder,
    )


def save(arrays: Mapping[str, Array], folder: Path) -> Path:
    """Write samples as the safetensors file that a `ConvertRequest` names."""
    path = folder / "calibration.safetensors"
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
    return path
