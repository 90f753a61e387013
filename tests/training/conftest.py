"""Hypothesis without a deadline: the first call warms kernels up, and the machine may be shared."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")
