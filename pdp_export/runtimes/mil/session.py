"""Runs a Core ML package by interpreting its ML Program: the session of every system without Core ML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pdp_export.errors import FileError
from pdp_export.results import TensorSpec
from pdp_export.runtimes.mil.interpreter import Interpreter, Mode
from pdp_export.runtimes.mil.program import read_function

if TYPE_CHECKING:
    from pdp_export.runtimes.coreml_files import PackageFiles

Array = np.ndarray[Any, Any]


class MilSession:
    """A package opened for interpretation with `threads` threads of torch (set for the whole process).

    Raises:
        NotRunnableError: for an operator or type that the interpreter does not have.
        FileError: for a damaged program.
    """

    def __init__(
        self,
        package: PackageFiles,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        threads: int = 1,
        mode: Mode = "exact",
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        self.inputs = inputs
        self.outputs = outputs
        self._interpreter = Interpreter(read_function(package.specification.mlProgram, package.weights), mode)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run one batch and return every output that is a tensor; states start as zeros.

        Raises:
            UsageError: for inputs that do not fit the program.
            FileError: when an operator cannot be computed.
        """
        results = self._interpreter.run(inputs)
        return {spec.name: _tensor(spec, results) for spec in self.outputs}


def _tensor(spec: TensorSpec, results: Mapping[str, Any]) -> Array:
    if spec.name not in results:
        raise FileError(f"the program does not compute the output {spec.name!r} of its description", where=spec.name)
    value = results[spec.name]
    if isinstance(value, dict):  # the probabilities of a classifier by label
        return np.array([list(value.values())], dtype=spec.dtype)
    return np.asarray(value).astype(spec.dtype)
