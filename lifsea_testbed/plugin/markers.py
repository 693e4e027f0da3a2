"""How a test says which claim it judges."""

from __future__ import annotations

import pytest

from lifsea_testbed.profiles.claims import catalogue


def claim(name: str) -> pytest.MarkDecorator:
    """Marks a test as a judge of that claim.

    Raises:
        KeyError: claims.toml has no such claim.
    """
    return pytest.mark.claim(catalogue()[name].id)
