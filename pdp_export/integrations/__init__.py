"""Pruning inside other people's trainers; each callback is imported, with its library, when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pdp_export.integrations.hf_callback import HuggingFacePruning
    from pdp_export.integrations.lightning_callback import LightningPruning

__all__ = ["HuggingFacePruning", "LightningPruning"]

_HOMES = {"HuggingFacePruning": "hf_callback", "LightningPruning": "lightning_callback"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
