"""Take a trained PyTorch network to a phone, smaller and faster, and prove nothing was lost.

The names below are the public surface; each is imported when it is first used, so that importing the
package (and ``pdp-export --help``) does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pdp_export.errors import PdpExportError
    from pdp_export.graph.archive import load_program, save_program
    from pdp_export.pipeline.api import Artifact, FileVerdict, convert, prune_and_convert, validate
    from pdp_export.pipeline.removal_api import remove_channels
    from pdp_export.pruning import NM, AccuracyRule, Block, Channel, Pruner, Schedule, Unstructured
    from pdp_export.recipe import Recipe
    from pdp_export.removal import Removed, simplify
    from pdp_export.results import Verdict

__all__ = [
    "NM",
    "AccuracyRule",
    "Artifact",
    "Block",
    "Channel",
    "FileVerdict",
    "PdpExportError",
    "Pruner",
    "Recipe",
    "Removed",
    "Schedule",
    "Unstructured",
    "Verdict",
    "convert",
    "load_program",
    "prune_and_convert",
    "remove_channels",
    "save_program",
    "simplify",
    "validate",
]

_HOMES = {
    "NM": "pdp_export.pruning",
    "AccuracyRule": "pdp_export.pruning",
    "Artifact": "pdp_export.pipeline.api",
    "Block": "pdp_export.pruning",
    "Channel": "pdp_export.pruning",
    "FileVerdict": "pdp_export.pipeline.api",
    "PdpExportError": "pdp_export.errors",
    "Pruner": "pdp_export.pruning",
    "Recipe": "pdp_export.recipe",
    "Removed": "pdp_export.removal",
    "Schedule": "pdp_export.pruning",
    "Unstructured": "pdp_export.pruning",
    "Verdict": "pdp_export.results",
    "convert": "pdp_export.pipeline.api",
    "load_program": "pdp_export.graph.archive",
    "prune_and_convert": "pdp_export.pipeline.api",
    "remove_channels": "pdp_export.pipeline.removal_api",
    "save_program": "pdp_export.graph.archive",
    "simplify": "pdp_export.removal",
    "validate": "pdp_export.pipeline.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
