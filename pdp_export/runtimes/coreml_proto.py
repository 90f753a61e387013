"""The protobuf classes of Core ML, loaded without importing coremltools itself.

Importing coremltools takes six seconds, pulls in torch and logs a dozen warnings. Reading a package
needs only the generated message classes beside it, so these are loaded under a name of their own.
Should coremltools be imported later, protobuf hands it the very same classes.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from typing import Any

from pdp_export.errors import MissingDependencyError

_ALIAS = "_pdp_export_coreml_proto"


def new_model() -> Any:
    """Return an empty ``CoreML.Specification.Model`` message.

    Raises:
        MissingDependencyError: when coremltools is not installed.
    """
    return _module("Model_pb2").Model()


def type_name(number: int) -> str:
    """Return MIL's name of a data type, for example ``FLOAT16``."""
    types = _module("MIL_pb2").DataType
    return str(types.Name(number)) if number in types.values() else f"type {number}"


def _module(name: str) -> Any:
    if _ALIAS not in sys.modules:
        spec = ModuleSpec(_ALIAS, loader=None, is_package=True)
        spec.submodule_search_locations = [str(_folder())]
        sys.modules[_ALIAS] = module_from_spec(spec)
    return import_module(f"{_ALIAS}.{name}")


def _folder() -> Path:
    found = find_spec("coremltools")
    if found is None or not found.submodule_search_locations:
        raise MissingDependencyError(
            "reading a Core ML package needs coremltools, which is not installed",
            where="runtime: coreml",
            hint="pip install 'pdp-export[coreml]'",
        )
    return Path(found.submodule_search_locations[0]) / "proto"
