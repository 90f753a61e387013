"""Runs a package in Apple's Core ML, on macOS, through coremltools."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pdp_export.errors import FileError, NotRunnableError
from pdp_export.results import FileFacts, TensorSpec
from pdp_export.runtimes.run_on_mac import in_order, picture

Array = np.ndarray[Any, Any]


class CoreMLSession:
    """A package opened for all compute units, as an app opens it by default.

    Raises:
        NotRunnableError: when Apple's framework cannot be reached or is older than the package.
        FileError: when the framework refuses the package.
    """

    def __init__(self, path: Path, facts: FileFacts, labels: Sequence[str] = ()) -> None:
        self._labels = list(labels)
        self.inputs: Sequence[TensorSpec] = facts.inputs
        self.outputs: Sequence[TensorSpec] = facts.outputs
        # coremltools warns instead of raising when the framework refuses a package.
        with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("always")
            import coremltools

            if coremltools.models.model._MLModelProxy is None:
                raise NotRunnableError(
                    "this build of coremltools lacks its Core ML bridge", where=path.name, hint="reinstall coremltools"
                )
            self._model = coremltools.models.MLModel(str(path), compute_units=coremltools.ComputeUnit.ALL)
        refusals = [str(warning.message) for warning in caught if "predict()" in str(warning.message)]
        if refusals:
            raise FileError(f"Core ML refuses {path.name}: {refusals[0]}", where=path.name)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run one batch and return every output by name, as fresh arrays."""
        feed = {spec.name: _fed(spec, inputs[spec.name]) for spec in self.inputs}
        try:
            results = self._model.predict(feed)
        except RuntimeError as error:
            raise NotRunnableError(f"Core ML could not run the package: {error}") from error
        return {
            spec.name: in_order(results[spec.name], self._labels).reshape(spec.shape)
            if isinstance(results[spec.name], dict)
            else np.array(results[spec.name])
            for spec in self.outputs
        }


def _fed(spec: TensorSpec, array: Array) -> Any:
    """Return what Core ML takes: an array, or a picture."""
    return picture(array[0], spec.colour) if spec.colour else np.ascontiguousarray(array, dtype=spec.dtype)
