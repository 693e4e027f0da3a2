"""Shards: equal parts of one run, on hosts that do not communicate."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lifsea_testbed.errors import CallerError


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """One shard: `number` (from 1) of `count`."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> ShardIndex:
        """Parses `K/N`, the K-th of N parts.

        Raises:
            CallerError: the text is something else.
        """
        match = re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})", text)
        if match and 1 <= int(match[1]) <= int(match[2]):
            return cls(number=int(match[1]), count=int(match[2]))
        raise CallerError(f"--shard {text}: not K/N", hint="1/3, 2/3 and 3/3 are the three parts of one run")

    def holds(self, digest: str) -> bool:
        """Returns whether the test with that hexadecimal digest belongs to this part."""
        return int(digest, 16) % self.count == self.number - 1

    def __str__(self) -> str:
        """`K/N`."""
        return f"{self.number}/{self.count}"
