"""Bytes of the pruned file against the dense file of the same target."""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np

from pdp_export import files
from pdp_export.measurements import SizeResult
from pdp_export.results import FileFacts


def compare_sizes(pruned: Path, dense: Path | None, facts: FileFacts | None = None) -> SizeResult:
    """Measure both files, raw and after gzip, from the disk.

    Args:
        pruned: The written file, or the directory of a package.
        dense: The dense model written by the same converter, if there is one.
        facts: What the pruned file holds; gives the size it would have without an encoding.
    """
    raw, zipped = files.size_bytes(pruned), files.gzip_bytes(pruned)
    stored_densely = densely_stored_bytes(facts) if facts is not None else None
    if dense is None:
        return SizeResult(pruned_bytes=raw, pruned_gzip_bytes=zipped, stored_densely_bytes=stored_densely)
    dense_raw, dense_zipped = files.size_bytes(dense), files.gzip_bytes(dense)
    return SizeResult(
        pruned_bytes=raw,
        pruned_gzip_bytes=zipped,
        stored_densely_bytes=stored_densely,
        dense_bytes=dense_raw,
        dense_gzip_bytes=dense_zipped,
        ratio=dense_raw / raw,
        gzip_ratio=dense_zipped / zipped,
    )


def densely_stored_bytes(facts: FileFacts) -> int | None:
    """Return the bytes the file would have with every tensor stored element by element, in the dtype it has there.

    None when a tensor's dtype has no fixed byte width in numpy.
    """
    total = facts.file_bytes
    for tensor in facts.tensors:
        try:
            width = np.dtype(tensor.stored_dtype).itemsize
        except TypeError:
            return None
        total += prod(tensor.shape) * width - tensor.stored_bytes
    return total
