"""The error of a failed build."""

from __future__ import annotations


class BuildError(Exception):
    """A step of a recipe failed; the message names it and has the end of its log."""
