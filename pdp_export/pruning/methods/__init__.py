"""How a mask's value follows from the weights: PDP and its rivals behind one interface.

Start reading at `base.py`; `presets.py` names them.
"""

from pdp_export.pruning.methods.base import Method
from pdp_export.pruning.methods.presets import PRESET_NAMES, Preset, preset

__all__ = ["PRESET_NAMES", "Method", "Preset", "preset"]
