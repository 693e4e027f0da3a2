"""The kernel's own files, read by the shell itself: no program of the image takes part, so none can change them."""

from __future__ import annotations

from collections.abc import Iterable

#: Defines `show FILE [WORD]`, which prints each line of a file after that word: builtins of a POSIX shell alone. A line
#: without an end is printed as well; a file that is not there prints nothing and ends with a status that is not 0.
SHOW = """show() {
    while IFS= read -r line || [ -n "$line" ]; do printf '%s%s\\n' "${2:+$2 }" "$line"; line=; done <"$1"
} 2>/dev/null
"""
#: What stands for a file that is not there.
ABSENT = "absent"


def shown(*paths: str) -> str:
    """Returns the script that prints those files, one after the other, without those that are not there."""
    return SHOW + "".join(f"show {path}\n" for path in paths) + ":\n"


def first_lines(paths: Iterable[str]) -> str:
    """Returns the script that prints the first line of each file, or `absent`.

    A shell that reads a byte at a time, as dash(1) does, gets no more than the first byte of a number in /proc/sys: the
    kernel ends such a file there (kernel/sysctl.c, proc_dointvec).
    """
    return "".join(f"line=; {{ IFS= read -r line <{path} || [ -n \"$line\" ]; }} 2>/dev/null || line={ABSENT}\n"
                   "printf '%s\\n' \"$line\"\n" for path in paths) + ":\n"  # fmt: skip
