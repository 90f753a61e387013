"""The constant tensors of an ONNX file, decoded: plain, COO, or behind the decoders of `pdp_export.encoding`.

A decoder is recognised by its structure alone, never by names, and only in the exact form whose meaning is that of a
codec. Anything else stays what it is: nodes and plain constants.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pdp_export.encoding import codecs
from pdp_export.onnx_external import damaged
from pdp_export.runtimes.onnx_decoders import Coded, Finder
from pdp_export.runtimes.onnx_file import graphs

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, SparseTensorProto

Array = np.ndarray[Any, Any]

MAX_DECODED_BYTES = 1 << 31
"""All decoded tensors of one file together, or MAX_GROWTH times what it stores if that is more."""
MAX_GROWTH = 16


@dataclass(frozen=True, eq=False)
class Constant:
    """One constant tensor in the dtype it is stored in; `dtype` is the one it has in the graph.

    `stored_bytes` are those of values, gaps, masks and indices, without names and nodes.
    """

    name: str
    values: Array
    encoding: str
    stored_bytes: int
    dtype: np.dtype[Any]


class Constants:
    """All constant tensors of a model.

    Attributes:
        parts: Names of the constants that only decoders use.
        shared_bytes: Bytes of the tables and sizes that the decoders of several weights share.
    """

    def __init__(self, model: ModelProto, path: Path) -> None:
        self._model, self._path = model, path
        self._budget = max(MAX_DECODED_BYTES, MAX_GROWTH * sum(len(item.raw_data) for item in model.graph.initializer))
        finder = self._finder = Finder(model.graph)
        self.coded = finder.coded()
        self.parts = finder.parts()
        payload = {name for weight in self.coded for name in weight.payload}
        self.shared_bytes = sum(finder.array(name).nbytes for name in self.parts - payload)

    def plain(self, name: str) -> Array | None:
        """Return a constant that is stored as it is, or None."""
        return self._finder.array(name) if name in self._finder else None

    def __iter__(self) -> Iterator[Constant]:
        """Yield every tensor once, decoding one at a time.

        Raises:
            FileError: codes that contradict themselves, or more decoded bytes than a dense file could hold.
        """
        from onnx import numpy_helper

        for graph in graphs(self._model.graph):
            for item in graph.initializer:
                if item.name not in self.parts:
                    yield _plain(item.name, numpy_helper.to_array(item))
            for node in graph.node:
                for attribute in node.attribute if node.op_type == "Constant" else ():
                    if attribute.HasField("t"):
                        yield _plain(node.output[0], numpy_helper.to_array(attribute.t))
        yield from self.sparse()

    def sparse(self) -> Iterator[Constant]:
        """Yield the tensors that are not stored as they are; raises as iteration does."""
        for graph in graphs(self._model.graph):
            for sparse in graph.sparse_initializer:
                yield self._coo(sparse)
        for coded in self.coded:
            yield self._decoded(coded)

    def is_decoder(self, node: NodeProto) -> bool:
        """Whether a node only serves to decode a weight."""
        return self._finder.is_member(node)

    def _decoded(self, coded: Coded) -> Constant:
        code = coded.code
        self._spend(code.shape, code.arrays["values"].dtype, coded.name)
        try:
            values = codecs.decode(code)
        except ValueError as error:
            raise damaged(self._path, f"weight {coded.name!r}: {error}", where=coded.name) from error
        return Constant(coded.name, values, code.encoding, code.nbytes, coded.dtype)

    def _coo(self, sparse: SparseTensorProto) -> Constant:
        from onnx import numpy_helper

        name, shape = sparse.values.name, tuple(sparse.dims)
        values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
        self._spend(shape, values.dtype, name)
        dense = np.zeros(shape, values.dtype)
        try:
            where = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), shape)
            if where.size and where.min() < 0:
                raise IndexError("a negative index")
            dense.reshape(-1)[where] = values
        except (ValueError, IndexError) as error:
            raise damaged(self._path, f"sparse tensor {name!r}: {error}", where=name) from error
        return Constant(name, dense, "coo", values.nbytes + indices.nbytes, values.dtype)

    def _spend(self, shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> None:
        size = math.prod(shape) * dtype.itemsize
        self._budget -= size
        if min(shape, default=0) < 0 or self._budget < 0:
            raise damaged(
                self._path, f"weight {name!r} claims the shape {shape}, more than a file can hold", where=name
            )


def _plain(name: str, values: Array) -> Constant:
    return Constant(name, values, "dense", values.nbytes, values.dtype)
