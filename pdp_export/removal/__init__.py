"""Physical channel removal: facts, plan, rewrite, proof."""

from pdp_export.removal.simplification import simplify

__all__ = ["simplify"]
