"""Turns the sparse weights of an .onnx file back into plain ones, bit by bit, for runtimes that cannot fold them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pdp_export import onnx_external
from pdp_export.encoding.codecs import SPARSE_KEY
from pdp_export.runtimes.onnx_constants import Constants
from pdp_export.runtimes.onnx_file import read

if TYPE_CHECKING:
    from onnx import ModelProto


def expand(path: Path, output: Path) -> int:
    """Write `path` with every weight as a plain initializer to `output`; return how many were sparse.

    Over 2 GiB, weights go to a second file beside `output`.

    float16 values that the file widens become float32, int8 weights stay int8. Names, metadata and nodes are kept,
    but for the number of sparse weights: they are dense on purpose.

    Raises:
        FileError: for a truncated, damaged, foreign or self-contradicting file.
    """
    model = read(path).model
    count = expand_model(model, path)
    kept = [item for item in model.metadata_props if item.key != SPARSE_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx_external.write(model, output)
    return count


def expand_model(model: ModelProto, path: Path) -> int:
    """Expand a model in place; `path` is its name in messages."""
    from onnx import numpy_helper

    constants = Constants(model, path)
    dense = [numpy_helper.from_array(item.values.astype(item.dtype), item.name) for item in constants.sparse()]
    graph = model.graph
    kept = [item for item in graph.initializer if item.name not in constants.parts]
    nodes = [node for node in graph.node if not constants.is_decoder(node)]
    del graph.initializer[:], graph.node[:], graph.sparse_initializer[:]
    graph.initializer.extend([*dense, *kept])
    graph.node.extend(nodes)
    return len(dense)


def expand_in_child(path: str, output: str) -> int:
    """Entry point of the child process."""
    return expand(Path(path), Path(output))
