"""The text on a screen is read from a dump of its memory; what is no text mode has none."""

from __future__ import annotations

import random

import pytest

from lifsea_testbed.qemu import text_screen


def dump(memory: bytes) -> str:
    """The memory as QEMU's `xp /500xg` shows it (monitor/hmp-cmds.c, memory_dump)."""
    lines = []
    for start in range(0, len(memory), 16):
        words = (int.from_bytes(memory[place:place + 8], "little") for place in (start, start + 8))
        lines.append(f"{0xB8000 + start:016x}:" + "".join(f" 0x{word:016x}" for word in words))
    return "\r\n".join(lines)


def screen(*rows: str, attribute: int = 7) -> bytes:
    text = "".join(row.ljust(80) for row in rows).ljust(2000).encode("cp437")
    return bytes(byte for character in text for byte in (character, attribute))


def test_the_rows_of_the_screen_are_read() -> None:
    shown = screen("SeaBIOS (version 1.16.3)", "", "Booting from Hard Disk...", "┌─ é ─┐")
    assert text_screen.parse(dump(shown)) == "SeaBIOS (version 1.16.3)\n\nBooting from Hard Disk...\n┌─ é ─┐"


@pytest.mark.parametrize("memory", [
    bytes(4000), screen(""), b"\xff" * 4000, random.Random(1).randbytes(4000), screen("a\x01b"), b"",
], ids=["zeros", "blanks", "unmapped", "graphics", "control", "nothing"])  # fmt: skip
def test_what_is_no_text_is_none(memory: bytes) -> None:
    assert not text_screen.parse(dump(memory)).strip("\xa0 \n")


def test_an_answer_that_is_no_dump_has_no_text() -> None:
    assert text_screen.parse("unknown command: 'xp'\r\n") == "" == text_screen.summary("")


def test_a_summary_has_the_last_rows_on_one_line_and_is_bounded() -> None:
    assert text_screen.summary("one\n\ntwo\n three   four\n\nfive") == "; on the screen: 'two / three four / five'"
    assert len(text_screen.summary("\n".join(["x" * 80] * 25))) < 230
