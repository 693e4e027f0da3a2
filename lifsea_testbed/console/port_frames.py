"""The frames of the command channel on a virtio-serial port: pure functions over bytes; channel.sh has the grammar."""

from __future__ import annotations

from dataclasses import dataclass

from lifsea_testbed.errors import ChannelError

#: No header is longer than this (bytes): a boot id is 36 characters, a length at most 20.
LONGEST_HEADER = 200


@dataclass(frozen=True, kw_only=True)
class Hello:
    """The guest's answer to a greeting: the identifier of the kernel's current boot."""

    boot_id: str


@dataclass(frozen=True, kw_only=True)
class ResultHeader:
    """The exit status of a command, and how many bytes of output and of errors follow."""

    status: int
    output: int
    errors: int


def hello(nonce: str) -> bytes:
    """Returns a greeting."""
    return f"hello {nonce}\n".encode()


def run(nonce: str, script: str, input: bytes) -> bytes:
    """Returns the request to run a script with that standard input.

    Raises:
        ValueError: the script has a NUL, which no shell can read.
    """
    if "\0" in script:
        raise ValueError("a script cannot hold a NUL byte; give binary data as input")
    lines = script.removesuffix("\n").split("\n")
    if len(lines) == 1 and lines[0] and lines[0] == lines[0].strip(" \t") and not input:
        return f"do {nonce} {lines[0]}\n".encode()
    header = f"run {nonce} {len(lines)} {len(input)}\n"
    return header.encode() + "".join(f"{line}\n" for line in lines).encode() + input


def kill(nonce: str) -> bytes:
    """Returns the request to kill a running script with its whole process group."""
    return f"kill {nonce}\n".encode()


def lend(nonce: str, program: str) -> bytes:
    """Returns the request to start a program in the guest that reads and writes the port itself until it ends."""
    return f"lend {nonce} {program}\n".encode()


def result(nonce: str, output: int) -> bytes:
    """Returns the result header that such a program writes before `output` bytes of output."""
    return f"channel {nonce} result 0 {output} 0\n".encode()


def parse_header(line: bytes, nonce: str, doing: str = "greeting the shell") -> Hello | ResultHeader:
    """Parses one header line, without its newline; `doing` names the command for the error.

    Raises:
        ChannelError: it is not in the grammar, or answers another request.
    """
    words = line.decode("ascii", "replace").split(" ")
    if len(words) >= 4 and words[0] == "channel" and words[1] == nonce:
        if words[2] == "hello" and len(words) == 4:
            return Hello(boot_id=words[3])
        if words[2] == "result" and len(words) == 6 and all(_is_count(word) for word in words[3:]):
            return ResultHeader(status=int(words[3]), output=int(words[4]), errors=int(words[5]))
    raise ChannelError(
        f"protocol error on the command channel while {doing}: not a header of this request",
        expected=f"a header that starts with 'channel {nonce}'",
        evidence=repr(line[:LONGEST_HEADER]),
        hint="another process of the guest writes to the port org.lifsea.testbed.0",
    )


def _is_count(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) <= 20
