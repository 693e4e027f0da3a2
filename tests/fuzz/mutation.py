"""Changed copies of sound inputs, the same for the same seed: numbers, lengths and texts that no sound tool writes."""

from __future__ import annotations

import random
from collections.abc import Sequence

#: What fields are made of that break parsers: zero, the largest numbers with and without a sign, and one beside them.
_NUMBERS = [number.to_bytes(size, order) for size in (1, 2, 4, 8) for order in ("little", "big")
            for number in (0, 1, (1 << 8 * size) - 1, 1 << (8 * size - 1), (1 << (8 * size - 1)) - 1)]  # fmt: skip
_WORDS = [b"\0", b"\n", b" ", b"=", b":", b"/", b"..", b"\xff\xfe", b"\xed\xa0\x80", b"'", b'"', b"\\", b"-1",
          b"9" * 25, b"1e999", b"nan", "٣".encode(), b"{", b"[" * 50, b"\x1b]", b"%s", b"\r\n\r\n"]  # fmt: skip
_PAGE = 4096


class Mutator:
    """Makes changed copies of some inputs; most changes hit bytes that are not zero in the original."""

    def __init__(self, inputs: Sequence[bytes], seed: int) -> None:
        self._inputs, self._dice = list(inputs), random.Random(seed)
        self._used = [[place for place, byte in enumerate(data) if byte] or [0] for data in inputs]

    def next(self) -> bytes:
        """Returns another input: one of the originals with one to eight changes."""
        number = self._dice.randrange(len(self._inputs))
        data = bytearray(self._inputs[number])
        for _ in range(self._dice.choice((1, 1, 1, 2, 4, 8))):
            self._change(data, number)
        return bytes(data)

    def _change(self, data: bytearray, number: int) -> None:
        place = self._place(number, len(data))
        kind = self._dice.randrange(10)
        if kind < 3:
            new = self._dice.choice(_NUMBERS)
            data[place:place + len(new)] = new
        elif kind < 5:
            data[place:place + 1] = bytes([self._dice.randrange(256)])
        elif kind < 6:
            data[place:place + 1] = bytes([(data[place] if place < len(data) else 0) ^ 1 << self._dice.randrange(8)])
        elif kind < 8:
            data[place:place] = self._dice.choice(_WORDS)
        else:
            self._move(data, place)

    def _move(self, data: bytearray, place: int) -> None:
        """Cuts a piece out, doubles it, has one of another input instead, or ends here."""
        length = self._dice.choice((1, 4, 16, 64, _PAGE))
        kind = self._dice.randrange(4)
        if kind == 0:
            del data[place:place + length]
        elif kind == 1:
            data[place:place] = data[place:place + length]
        elif kind == 2:
            other = self._dice.choice(self._inputs)
            start = self._dice.randrange(len(other) + 1)
            data[place:place + length] = other[start:start + length]
        else:
            del data[place:]

    def _place(self, number: int, length: int) -> int:
        used = self._dice.choice(self._used[number]) + self._dice.choice((0, 0, 0, -1, 1, 4))
        return max(0, min(used, length))
