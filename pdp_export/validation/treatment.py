"""What the runtime of a file will do with each of its weights: on disk, in memory, in time."""

from __future__ import annotations

from math import prod

import numpy as np

from pdp_export.results import FileFacts, Record, TensorFacts
from pdp_export.targets import Effect, Target
from pdp_export.validation.stored_form import CLEAR

_MATRIX = 2
_BITS = 8


class Treatment(Record):
    """One weight: whether its zeros buy bytes on disk, memory and time in this file, and why."""

    name: str
    disk: Effect
    ram: Effect
    speed: Effect


def treatments(facts: FileFacts, target: Target) -> tuple[Treatment, ...]:
    """Return one record per weight of rank two or more, in the order of the file.

    What `target` declares of its sparse encodings holds for the weights that use one; a dense weight gets nothing from
    its zeros, and the reason says so where an encoding would.
    """
    return tuple(_treatment(tensor, target) for tensor in facts.tensors if len(tensor.shape) >= _MATRIX)


def _treatment(tensor: TensorFacts, target: Target) -> Treatment:
    sparse = target.effects["unstructured"]
    if tensor.encoding != "dense":
        share = tensor.stored_bytes / max(_dense_bytes(tensor, tensor.dtype), 1)
        disk = Effect(expected=share < 1, why=f"{share:.1%} of its {tensor.dtype} bytes")
        return Treatment(name=tensor.name, disk=disk, ram=sparse.ram, speed=_integer(tensor) or sparse.speed)
    ram = Effect(expected=False, why="every value is stored, and loaded")
    speed = _integer(tensor) or Effect(expected=False, why="zeros are multiplied like any value")
    return Treatment(name=tensor.name, disk=_dense_disk(tensor, target), ram=ram, speed=speed)


def _dense_disk(tensor: TensorFacts, target: Target) -> Effect:
    """Say what a dense weight with many zeros could have been."""
    zeros = tensor.zeros / tensor.elements if tensor.elements else 0.0
    precision = {"float16": "fp16", "int8": "int8"}.get(tensor.stored_dtype, "fp32")
    bits = target.predicted_bits(precision, "auto", zeros)
    width = _BITS * tensor.stored_bytes / tensor.elements if tensor.elements else 0.0
    if bits is not None and bits <= CLEAR * width:
        return Effect(expected=False, why=f"{zeros:.1%} zeros are stored; about {bits / width:.0%} would do")
    return Effect(expected=False, why="every value is stored")


def _integer(tensor: TensorFacts) -> Effect | None:
    if tensor.stored_dtype != "int8" or tensor.dtype == "int8":
        return None
    return Effect(expected=None, why="by int8 kernels, not by zeros: CPUs with VNNI or ARM dot products")


def _dense_bytes(tensor: TensorFacts, dtype: str) -> int:
    try:
        return prod(tensor.shape) * np.dtype(dtype).itemsize
    except TypeError:
        return tensor.stored_bytes
