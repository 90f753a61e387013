"""The fixture that holds a removal result against everything it promises."""

from __future__ import annotations

import pytest

from tests.removal.networks import Check, check_removal


@pytest.fixture
def check() -> Check:
    """Remove channels and compare with the original."""
    return check_removal
