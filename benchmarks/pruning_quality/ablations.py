"""Changes of one thing at a time, on top of a method's tuned options: what is the gain due to?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SEEDS = (100, 101, 102)

# method -> changes, each a set of options of `pdp_export.Pruner`, its schedule or its preset. {} is the base.
CHANGES: dict[str, tuple[Mapping[str, Any], ...]] = {
    "pdp_default": ({}, {"reallocate": True}, {"refresh_every": 1}, {"ramp": "linear"}),
    "pdp_rectified": ({}, {"reallocate": True}, {"slope": "pdp"}, {"allocation": "erk"}, {"refresh_every": 1}),
}
