"""Masks as parametrizations, one class per structure; start reading at `base.py`."""

from pdp_export.pruning.masks.base import Mask, Place
from pdp_export.pruning.masks.groups import BlockMask, ChannelMask
from pdp_export.pruning.masks.weights import NMMask, WeightMask

__all__ = ["BlockMask", "ChannelMask", "Mask", "NMMask", "Place", "WeightMask"]
