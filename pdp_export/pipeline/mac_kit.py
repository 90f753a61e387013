"""The folder that a colleague with a Mac gets: packages, inputs, expected outputs, and one script that runs them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pdp_export import files
from pdp_export.errors import UsageError
from pdp_export.results import FileFacts, TensorSpec
from pdp_export.runtimes import run_on_mac
from pdp_export.runtimes.coreml_features import class_labels
from pdp_export.runtimes.coreml_files import PackageFiles
from pdp_export.validation import feeding, isolated

Array = np.ndarray[Any, Any]

FORMAT = "pdp-export.mac-kit/1"


def emit(
    folder: Path, packages: Mapping[str, Path], inputs: Mapping[str, Array], expected: Mapping[str, Array], atol: float
) -> None:
    """Write the kit; it appears whole or not at all.

    Args:
        folder: The new folder.
        packages: Role ("pruned", and maybe "dense") -> package.
        inputs: Arrays by input name in the model's layout, batch first; written as the package takes them.
        expected: What the PyTorch model makes of them, by output name of the package.
        atol: Largest error that parity allows, relative to max|y|.

    Raises:
        UsageError: when the folder exists, or a file is no Core ML package.
    """
    if folder.exists():
        raise UsageError(f"{folder.name} exists already", where="--emit-mac-kit", hint="name a new folder")
    wrong = next((path for path in packages.values() if path.suffix != ".mlpackage"), None)
    if wrong is not None:
        raise UsageError(f"{wrong.name} is no Core ML package", where="--emit-mac-kit")
    facts = isolated.describe("coreml", packages["pruned"])
    fed = {spec.name: feeding.to_file(spec, inputs[spec.name]) for spec in map(_any_batch, facts.inputs)}
    samples = min(len(array) for array in fed.values())
    with files.atomic_path(folder) as partial:
        partial.mkdir(parents=True)
        for role, path in packages.items():
            shutil.copytree(path, partial / f"{role}.mlpackage")
        np.savez(partial / "inputs.npz", **fed)  # type: ignore[arg-type]
        np.savez(partial / "expected.npz", **dict(expected))  # type: ignore[arg-type]
        labels = class_labels(PackageFiles(packages["pruned"]).specification)
        kit = _description(packages, facts, labels, samples, list(expected), atol)
        (partial / "kit.json").write_text(json.dumps(kit, indent=1) + "\n", encoding="utf-8")
        shutil.copyfile(str(run_on_mac.__file__), partial / "run_on_mac.py")


def _any_batch(spec: TensorSpec) -> TensorSpec:
    """Return a spec that takes any number of samples: the script feeds them one by one."""
    return spec.model_copy(update={"dynamic": {**spec.dynamic, 0: "samples"}})


def _description(
    packages: Mapping[str, Path], facts: FileFacts, labels: Sequence[str], samples: int, outputs: list[str], atol: float
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "packages": {
            role: {"path": f"{role}.mlpackage", "sha256": files.sha256(path)} for role, path in packages.items()
        },
        "inputs": [{"name": spec.name, "dtype": spec.dtype, "colour": spec.colour} for spec in facts.inputs],
        "labels": list(labels),
        "outputs": outputs,
        "samples": samples,
        "atol": atol,
    }
