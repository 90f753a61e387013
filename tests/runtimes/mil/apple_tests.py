"""Apple's own tests of MIL's operators, run on Linux with our interpreter in the place of Core ML.

The wheel of coremltools holds the tests that Apple runs on Macs: programs made with the MIL builder, inputs, and
expected results written by hand or with numpy. They know nothing of our code: the best second opinion there is.
Use it as a plugin of pytest: ``-p tests.runtimes.mil.apple_tests --pyargs coremltools.converters.mil.mil.ops.tests``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("PYMIL_TEST_TARGETS", "mlprogram")
os.environ.setdefault("INCLUDE_MIL_FP32_UNIT_TESTS", "1")


def pytest_configure(config: Any) -> None:
    del config
    import coremltools as ct
    from coremltools.converters.mil import testing_utils
    from coremltools.models import model, utils

    testing_utils._IS_MACOS = True
    compare = testing_utils.compare_backend

    def compare_within_halves(*args: Any, **kwargs: Any) -> Any:
        """Allow the last bit of a half: most of the programs compute in float16, the expected results do not."""
        return compare(*args, **{**kwargs, "atol": max(kwargs["atol"], 1e-3), "rtol": max(kwargs["rtol"], 2e-3)})

    testing_utils.compare_backend = compare_within_halves
    utils._is_macos = lambda: True
    utils._macos_version = lambda: (26, 0)
    model._is_macos = lambda: True
    model._macos_version = lambda: (26, 0)
    ct.models.MLModel.predict = _predict
    ct.models.MLModel.make_state = lambda _self: {}
    ct.models.MLModel._is_stateful = lambda self: bool(self._spec.description.state)


RUNS: list[str] = []  # every package that our interpreter ran


def _predict(model: Any, data: dict[str, Any], state: dict[str, Any] | None = None) -> dict[str, Any]:
    RUNS.append(model.package_path)
    from pdp_export.runtimes.coreml_files import PackageFiles
    from pdp_export.runtimes.mil.interpreter import Interpreter
    from pdp_export.runtimes.mil.program import read_function

    files = PackageFiles(Path(model.package_path))
    function = read_function(files.specification.mlProgram, files.weights)
    inputs = {name: np.asarray(value) for name, value in data.items()}
    kinds = {item.name: item.type.multiArrayType for item in files.specification.description.input}
    for name, array in inputs.items():
        if array.ndim == 0 and len(kinds[name].shape) == 1:
            inputs[name] = array.reshape(1)
    return Interpreter(function).run(inputs, state)


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Keep at most APPLE_TESTS_EACH parametrizations of each test function, spread evenly."""
    limit = int(os.environ.get("APPLE_TESTS_EACH", "0"))
    if not limit:
        return
    groups: dict[str, list[Any]] = {}
    for item in items:
        groups.setdefault(item.nodeid.partition("[")[0], []).append(item)
    kept = []
    for group in groups.values():
        step = max(1, len(group) / limit)
        kept += [group[int(i * step)] for i in range(min(limit, len(group)))]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    items[:] = kept


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.write_line(f"{len(RUNS)} packages were run by the interpreter")
