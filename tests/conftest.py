"""What the tests of the test bed share."""

from __future__ import annotations

from hypothesis import settings

pytest_plugins = ["pytester"]

# A busy host makes an example slow and proves nothing.
settings.register_profile("any-host", deadline=None)
settings.load_profile("any-host")
