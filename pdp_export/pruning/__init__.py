"""PDP itself: soft masks, patterns, allocation, schedule, and the Pruner that applies them.

Start reading at `pruner.py`.
"""

from pdp_export.pruning.averaging import rebind
from pdp_export.pruning.methods import PRESET_NAMES, Method, Preset, preset
from pdp_export.pruning.patterns import NM, Block, Channel, Pattern, Unstructured, make_pattern
from pdp_export.pruning.pruner import Pruner
from pdp_export.pruning.records import HardenedMask, HardenReport, MaskStatistics
from pdp_export.pruning.schedule import AccuracyRule, Schedule
from pdp_export.pruning.state import load_pruner, save_pruner

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
    "load_pruner",
    "make_pattern",
    "preset",
    "rebind",
    "save_pruner",
]
