"""PDP itself: soft masks, patterns, allocation, schedule, and the Pruner that applies them.

Start reading at `pruner.py`.
"""

from pdp_export.pruning.methods import PRESET_NAMES, Method, Preset, preset
from pdp_export.pruning.patterns import NM, Block, Channel, Pattern, Unstructured, make_pattern
from pdp_export.pruning.pruner import Pruner
from pdp_export.pruning.records import HardenedMask, HardenReport, MaskStatistics
from pdp_export.pruning.schedule import AccuracyRule, Schedule

__all__ = [
    "NM",
    "PRESET_NAMES",
    "AccuracyRule",
    "Block",
    "Channel",
    "HardenReport",
    "HardenedMask",
    "MaskStatistics",
    "Method",
    "Pattern",
    "Preset",
    "Pruner",
    "Schedule",
    "Unstructured",
    "make_pattern",
    "preset",
]
