"""Bytes of weight.bin against dense fp16, by share of zeros and form; and whether every stored bit is right."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.coreml_packages.packages import write
from benchmarks.coreml_packages.subjects import program
from pdp_export.pipeline.weights import program_weights
from pdp_export.runtimes import coreml_package
from pdp_export.validation.weight_check import check_stored_weights

ENCODINGS = ("sparse", "int8", "palette4", "palette6")


def measure(name: str, shares: tuple[float, ...] = (0.5, 0.75, 0.9)) -> list[dict[str, Any]]:
    """Return one row per share of zeros."""
    rows = []
    for zeros in shares:
        subject, _ = program(name, zeros)
        expected = program_weights(subject)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.mlpackage"
            _, dense = write(subject, path, encoding="dense")
            row: dict[str, Any] = {"network": name, "zeros": zeros, "dense_fp16_bytes": dense}
            for encoding in ENCODINGS:
                _, size = write(subject, path, encoding=encoding)
                check = check_stored_weights(expected, coreml_package.weights(path))
                row[encoding] = {
                    "bytes": size,
                    "of_dense": round(size / dense, 4),
                    "forms": coreml_package.describe(path).encodings,
                    "weights": check.verdict.value,
                    "differing": check.differing_elements,
                    "compared": check.elements,
                }
        rows.append(row)
    return rows
