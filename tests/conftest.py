"""What the tests of the test bed share."""

from __future__ import annotations

pytest_plugins = ["pytester"]
