"""The smallest loss that breaks a disk: of the writes that a broken state lacks, those that it cannot lack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def smallest(lost: Sequence[T], breaks: Callable[[Sequence[T]], bool]) -> list[T]:
    """Returns a part of `lost` that still breaks, while it without any one of its members does not (ddmin).

    `lost` as a whole is known to break (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input").
    """
    left, parts = list(lost), 2
    while len(left) > 1:
        size = -(-len(left) // parts)
        chunks = [left[start:start + size] for start in range(0, len(left), size)]
        rests = [[item for other in chunks if other is not chunk for item in other] for chunk in chunks]
        found = next((some for some in [*chunks, *rests] if len(some) < len(left) and some and breaks(some)), None)
        if found is not None:
            parts = max(parts - 1, 2) if len(found) > size else 2
            left = found
        elif parts >= len(left):
            break
        else:
            parts = min(2 * parts, len(left))
    return left
