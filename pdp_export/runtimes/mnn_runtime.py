"""Opens .mnn files again: what they hold, their weights, and their execution on the CPU in float32.

The file is parsed here first (`mnn_file`), so MNN's native code never sees a truncated or foreign one.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from pdp_export.errors import DataError, FileError, NotRunnableError
from pdp_export.files import size_bytes
from pdp_export.native_output import stdout_to_stderr
from pdp_export.results import Execution, FileFacts, StoredWeight, TensorFacts, TensorSpec
from pdp_export.runtimes.mnn_file import MnnNet, read
from pdp_export.runtimes.mnn_names import NamedConstant, named_constants
from pdp_export.runtimes.mnn_record import MnnRecord, metadata_of, specs_of

Array = np.ndarray[Any, Any]

NAME = "mnn"
_MATRIX = 2


def version() -> str:
    """Return the version of MNN, which is not imported for it: it prints what the processor can do."""
    return metadata.version("MNN")


def execution() -> Execution:
    """Return that MNN itself runs files here."""
    return Execution(by=f"MNN {version()}")


def describe(path: Path) -> FileFacts:
    """Return what the file holds, read from its own bytes; no native code runs.

    Raises:
        FileError: for a truncated, damaged or foreign file.
    """
    net = read(path)
    record = MnnRecord.parse(net.label)
    inputs, outputs, notes = specs_of(net, record)
    undecoded = [f"{operator.name}: {operator.undecoded}" for operator in net.operators if operator.undecoded]
    return FileFacts(
        format=NAME,
        file_bytes=size_bytes(path),
        inputs=inputs,
        outputs=outputs,
        tensors=tuple(_facts(constant) for constant in named_constants(net, record)),
        operators=net.operator_counts(),
        metadata=metadata_of(net.label, record),
        notes=(*notes, *undecoded),
    )


def weights(path: Path) -> list[StoredWeight]:
    """Return every decoded weight of rank >= 2 under its PyTorch name, where the file records it.

    A Linear is stored as a 1x1 convolution and returned as (C_out, C_in) where its shape is recorded, else as
    (C_out, C_in, 1, 1). Integer codes are returned as the float32 values they stand for.
    """
    net = read(path)
    return [
        StoredWeight(constant.name, constant.stored.values, constant.stored.encoding)
        for constant in named_constants(net, MnnRecord.parse(net.label))
        if constant.stored.values.ndim >= _MATRIX and constant.stored.values.dtype.kind == "f"
    ]


def open_session(path: Path, threads: int = 1) -> MnnSession:
    """Open the file for execution on the CPU with float32 arithmetic.

    Raises:
        FileError: for a damaged or foreign file, or one that MNN does not load.
        NotRunnableError: where the MNN package is not installed.
    """
    net = read(path)
    inputs, outputs, _ = specs_of(net, MnnRecord.parse(net.label))
    return MnnSession(path, net, inputs, outputs, threads)


def _facts(constant: NamedConstant) -> TensorFacts:
    stored = constant.stored
    return TensorFacts(
        name=constant.name,
        shape=stored.values.shape,
        dtype=str(stored.values.dtype),
        stored_dtype=stored.stored_dtype,
        encoding=stored.encoding,
        zeros=int(stored.values.size - np.count_nonzero(stored.values)),
        elements=stored.values.size,
        stored_bytes=stored.stored_bytes,
    )


class MnnSession:
    """A loaded file. Inputs may change their shape from run to run where the network allows it."""

    def __init__(
        self,
        path: Path,
        net: MnnNet,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        threads: int,
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self._name = path.name
        with stdout_to_stderr():
            try:
                from MNN import expr, nn
            except ImportError as error:
                raise NotRunnableError(
                    "MNN is not installed", where=path.name, hint="pip install 'pdp-export[mnn]'"
                ) from error
            config = {"backend": "CPU", "precision": "high", "numThread": threads}
            try:
                # The manager goes first when it is collected before the module: MNN keeps its own reference.
                manager = nn.create_runtime_manager((config,))
                names = [spec.name for spec in net.inputs]
                self._module = nn.load_module_from_file(str(path), names, list(net.outputs), runtime_manager=manager)
            except (SystemError, RuntimeError, ValueError) as error:
                raise FileError(f"MNN does not load {path.name}: {error}", where=path.name) from error
        self._expr = expr

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run one batch and return every output by name, as fresh arrays.

        Raises:
            DataError: a missing input, or one of another kind of number than the file takes.
            NotRunnableError: MNN cannot run the network for these shapes.
        """
        variables = [self._variable(spec, inputs) for spec in self.inputs]
        results = self._module.onForward(variables)
        if len(results) != len(self.outputs):
            shapes = ", ".join(f"{spec.name} {inputs[spec.name].shape}" for spec in self.inputs)
            raise NotRunnableError(
                f"MNN could not run {self._name} for {shapes}", where=self._name, hint="see what MNN printed to stderr"
            )
        return {spec.name: self._array(value) for spec, value in zip(self.outputs, results, strict=True)}

    def _variable(self, spec: TensorSpec, inputs: Mapping[str, Array]) -> Any:
        if spec.name not in inputs:
            raise DataError(f"input {spec.name!r} is missing", where=self._name, hint=f"given: {', '.join(inputs)}")
        array = np.asarray(inputs[spec.name])
        if not np.can_cast(array.dtype, spec.dtype, casting="same_kind"):
            raise DataError(f"input {spec.name!r} is {array.dtype}, the file takes {spec.dtype}", where=self._name)
        array = np.ascontiguousarray(array, dtype=spec.dtype)
        expr = self._expr
        layout = expr.NHWC if spec.layout == "NHWC" else expr.NCHW
        kinds = {"int32": expr.int, "int64": expr.int64, "uint8": expr.uint8}
        return expr.const(array, list(array.shape), layout, kinds.get(spec.dtype, expr.float))

    def _array(self, value: Any) -> Array:
        plain = value if value.data_format != self._expr.NC4HW4 else self._expr.convert(value, self._expr.NCHW)
        return np.array(plain.read(), copy=True)
