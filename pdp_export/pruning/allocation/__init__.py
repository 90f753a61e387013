"""How the pruned share is spread over the layers; start reading at `budget.py`."""

from pdp_export.pruning.allocation.budget import Budget, weight_caps

__all__ = ["Budget", "weight_caps"]
