"""What flows along every axis of a captured program: known constants, and what is needed of them."""

from pdp_export.graph.facts.facts import Facts
from pdp_export.graph.facts.propagation import channel_facts, known_constants

__all__ = ["Facts", "channel_facts", "known_constants"]
