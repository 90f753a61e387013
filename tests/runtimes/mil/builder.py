"""Programs made with coremltools' MIL builder, run by our interpreter from the message that a package would hold."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pdp_export.converters.coreml_quiet import quiet
from pdp_export.runtimes.coreml_files import PackageFiles
from pdp_export.runtimes.mil.interpreter import Interpreter, Mode
from pdp_export.runtimes.mil.program import read_function
from pdp_export.runtimes.mil.weight_file import WeightFile

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Case:
    """One operator: how to build it (from the builder and its inputs), its inputs, and the expected results."""

    name: str
    build: Callable[..., Any]
    inputs: tuple[Array, ...]
    expected: Callable[..., Any]
    atol: float = 1e-5


def check(cases: Sequence[Case], ios: int) -> None:
    """Put all cases into one program, run it, and compare every result."""
    inputs = {f"i{n}_{k}": a for n, case in enumerate(cases) for k, a in enumerate(case.inputs)}
    counts: list[int] = []

    def build(mb: Any, **variables: Any) -> list[Any]:
        results = []
        for n, case in enumerate(cases):
            own = [variables[f"i{n}_{k}"] for k in range(len(case.inputs))]
            made = case.build(mb, *own)
            made = list(made) if isinstance(made, (tuple, list)) else [made]
            counts.append(len(made))
            results += [mb.identity(x=item, name=f"o{n}_{k}") for k, item in enumerate(made)]
        return results

    got = run(build, inputs, ios)
    for n, case in enumerate(cases):
        wanted = case.expected(*case.inputs)
        wanted = list(wanted) if isinstance(wanted, (tuple, list)) else [wanted]
        assert len(wanted) == counts[n], case.name
        for k, value in enumerate(map(np.asarray, wanted)):
            result = got[f"o{n}_{k}"]
            assert result.shape == value.shape, (case.name, result.shape, value.shape)
            np.testing.assert_allclose(result, value, atol=case.atol, rtol=1e-5, err_msg=case.name)


def run(
    build: Callable[..., Any], inputs: Mapping[str, Array], ios: int, *, fp16: bool = False, mode: Mode = "exact",
    shapes: Mapping[str, tuple[Any, ...]] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Build a program over the inputs and run it without any pass of coremltools but those of the backend."""
    with tempfile.TemporaryDirectory() as folder:
        package = written(Path(folder) / "p.mlpackage", build, inputs, ios, fp16=fp16, shapes=shapes)
        interpreter = Interpreter(read_function(package.specification.mlProgram, package.weights), mode)
    values = interpreter.run(dict(inputs))
    return {item.name: values[item.name] for item in package.specification.description.output}


def specification(build: Callable[..., Any], inputs: Mapping[str, Array], ios: int, *, shapes: Any = None) -> Any:
    """Return the message of a package whose constants are all inside the program."""
    with tempfile.TemporaryDirectory() as folder:
        return written(Path(folder) / "p.mlpackage", build, inputs, ios, shapes=shapes).specification


def written(
    path: Path, build: Callable[..., Any], inputs: Mapping[str, Array], ios: int, *, fp16: bool = False,
    shapes: Any = None,
) -> PackageFiles:  # fmt: skip
    """Write a package and open its files."""
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb  # noqa: N813
    from coremltools.converters.mil.mil import Function, Program, types

    target = getattr(ct.target, f"iOS{ios}")
    kinds = {"float32": types.fp32, "int32": types.int32, "bool": types.bool, "float16": types.fp16,
             "int8": types.int8, "uint8": types.uint8, "int16": types.int16, "uint16": types.uint16}  # fmt: skip
    with quiet():
        placeholders = {
            name: mb.placeholder(shape=(shapes or {}).get(name, array.shape), dtype=kinds[array.dtype.name])
            for name, array in inputs.items()
        }
        program = Program()
        with Function(placeholders, opset_version=target) as function:
            outputs = build(mb, **function.inputs)
            outputs = list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]
            function.set_outputs(outputs)
            program.add_function("main", function)
        precision = ct.precision.FLOAT16 if fp16 else ct.precision.FLOAT32
        passes = ct.PassPipeline.EMPTY
        if fp16:
            passes.append_pass("common::add_fp16_cast")
        model = ct.convert(
            program, convert_to="mlprogram", compute_precision=precision, pass_pipeline=passes,
            minimum_deployment_target=target, skip_model_load=True, package_dir=str(path),
        )  # fmt: skip
        del model
    return PackageFiles(path)


def no_weights(name: str) -> WeightFile:
    raise AssertionError(f"{name} is read, but these programs hold their constants themselves")
