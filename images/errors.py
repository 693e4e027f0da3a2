"""What can go wrong while an image is built."""

from __future__ import annotations


class BuildError(Exception):
    """A step of a recipe failed; the message says which, with the end of its log."""
