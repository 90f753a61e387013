"""Physical channel removal: facts, plan, rewrite, proof."""

from pdp_export.removal.channel_removal import Removed, remove_channels
from pdp_export.removal.records import LayerChange, RemovalReport
from pdp_export.removal.simplification import simplify

__all__ = ["LayerChange", "RemovalReport", "Removed", "remove_channels", "simplify"]
