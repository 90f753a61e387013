"""PDP itself: soft masks, patterns, allocation, schedule, and the Pruner that applies them.

Start reading at `pruner.py`.
"""

from pdp_export.pruning.patterns import Channel, Pattern, Unstructured, make_pattern
from pdp_export.pruning.pruner import Pruner
from pdp_export.pruning.records import HardenedMask, HardenReport, MaskStatistics
from pdp_export.pruning.schedule import Schedule

__all__ = [
    "Channel",
    "HardenReport",
    "HardenedMask",
    "MaskStatistics",
    "Pattern",
    "Pruner",
    "Schedule",
    "Unstructured",
    "make_pattern",
]
