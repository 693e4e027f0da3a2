"""What a guest sends to the user's own terminal draws on its screen, and does nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifsea_testbed.support.terminal_filter import TerminalFilter

DRAWS = [
    b"\x1b[1;31mred\x1b[0m\r\n", b"\x1b[38:2::1:2:3mrgb", b"\x1b[2J\x1b[H", b"\x1b[10;20Hx", b"\x1b[K", b"\x1b[?25l",
    b"\x1b(0qq\x1b(B", "grün ▁▂ 日本".encode(), b"\x1b7\x1b8", b"\x1b[3;20r", b"a\tb\x08c\x07",
]  # fmt: skip
#: What a terminal answers, or what changes more than its screen; each is followed by an x.
DROPPED = [
    b"\x1b]0;title\x07", b"\x1b]52;c;AA\x1b\\", b"\x1bPq#0\x1b\\", b"\x1b_G\x1b\\", b"\x1b^x\x1b\\", b"\x1bXx\x1b\\",
    b"\x1b[6n", b"\x1b[?6n", b"\x1b[c", b"\x1b[>c", b"\x1b[>q", b"\x1b[?25$p", b"\x1b[0x", b"\x1bZ", b"\x1b[?u",
    b"\x1b[>1u", b"\x1b[1;1;1;1;1;1*y", b"\x1b[1$w", b"\x1b[5i", b"\x1b[?1000h", b"\x1b[?1004h", b"\x1b[?2004h",
    b"\x1b[?1h", b"\x1b[21t", b"\x1b[1;1;1;1;1T", b"\x1bc", b"\x1b[?1049;1004h", b"\x05", b"\x0e", b"\xc2\x9b6n"[:2],
    b"\x1b[<0;1;1M", b"\x1b]R", b"\x1b]P0123456", b"\x1b[!p", b"\x1b#8", b"\x1b[99999b",
]  # fmt: skip


@pytest.mark.parametrize("text", DRAWS)
def test_what_draws_passes(text: bytes) -> None:
    assert TerminalFilter().feed(text) == text


@pytest.mark.parametrize("sequence", DROPPED)
def test_what_does_more_is_dropped_in_one_piece_and_in_many(sequence: bytes) -> None:
    assert TerminalFilter().feed(sequence + b"x") == b"x"
    screen = TerminalFilter()
    assert b"".join(screen.feed(bytes([byte])) for byte in sequence + b"x") == b"x"


def test_an_eight_bit_sequence_is_none() -> None:
    assert TerminalFilter().feed(b"\x9b6nx").decode() == "�6nx"


def test_a_string_without_an_end_takes_no_more_than_its_line() -> None:
    assert TerminalFilter().feed(b"a\x1b]0;never ends\nb\n") == b"a\nb\n"


@pytest.mark.parametrize(("begin", "end"), [(b"\x1b]0;", b"\x07x"), (b"\x1b[1", b"mx"), (b"\x1b ", b"Fx")])
def test_an_endless_sequence_takes_no_memory_and_is_dropped(begin: bytes, end: bytes) -> None:
    screen = TerminalFilter()
    assert b"".join(screen.feed(piece) for piece in [begin, *[begin[-1:] * 1000] * 100, end]) == b"x"


@given(st.lists(st.sampled_from([*DRAWS, *DROPPED, b"\x1b", b"[", b"]", b"6n", b"\n", b"\x1b\\"])), st.integers(1, 7))
def test_pieces_make_no_difference(parts: list[bytes], size: int) -> None:
    text = b"".join(parts) + b"\n"
    screen = TerminalFilter()
    pieces = b"".join(screen.feed(text[at:at + size]) for at in range(0, len(text), size))
    assert pieces == TerminalFilter().feed(text)
