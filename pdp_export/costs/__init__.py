"""What layers cost on a runtime, measured on this machine and remembered."""

from pdp_export.costs.measured import Measured, measured

__all__ = ["Measured", "measured"]
