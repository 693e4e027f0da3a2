"""Files and directories into a guest and out of it, compared by digest at both ends."""

from __future__ import annotations

import contextlib
import io
import shlex
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from lifsea_testbed.errors import ChannelError
from lifsea_testbed.support.digest import TOOLS, same
from lifsea_testbed.support.protocols import Shell

#: Bytes that go in one command: so many that its cost does not count, so few that no guest runs out of memory.
PIECE = 4 << 20
#: How long one piece may take on real hardware (seconds): the slowest channel, 115200 baud, needs six minutes.
_A_PIECE = 400.0


class Transfers:
    """What copies files, for a class that runs scripts in a guest."""

    def put(self: Shell, content: bytes | Path, path: str) -> None:
        """Writes a file of the guest, and compares digests."""
        put(self, content, path)

    def get(self: Shell, path: str, into: Path) -> None:
        """Copies a file of the guest to the host, and compares digests."""
        get(self, path, into)

    def put_tree(self: Shell, directory: Path, path: str) -> None:
        """Copies what is in a directory of the host into one of the guest."""
        put_tree(self, directory, path)

    def get_tree(self: Shell, path: str, into: Path) -> None:
        """Copies what is in a directory of the guest into one of the host."""
        get_tree(self, path, into)


def put(shell: Shell, content: bytes | Path, path: str) -> None:
    """Writes a file of the guest, whole, in place of what was there.

    Raises:
        ChannelError: what arrived is not what was sent.
        CommandFailed: the guest could not write it.
    """
    with content.open("rb") if isinstance(content, Path) else io.BytesIO(content) as file:
        _send(shell, file, path)


def get(shell: Shell, path: str, into: Path) -> None:
    """Copies a file of the guest to the host.

    Raises:
        ChannelError: what arrived is not what the guest has.
        CommandFailed: the guest could not read it.
    """
    with into.open("w+b") as file:
        _fetch(shell, path, file)


def put_tree(shell: Shell, directory: Path, path: str) -> None:
    """Copies what is in a directory of the host into one of the guest, which is made if it is not there."""
    with tempfile.TemporaryFile() as file, _temporary(shell) as remote:
        with tarfile.open(fileobj=file, mode="w") as archive:
            archive.add(directory, arcname=".")
        file.seek(0)
        _send(shell, file, remote)
        shell.run(f"mkdir -p {shlex.quote(path)} && tar -C {shlex.quote(path)} -xf {remote}", within=_A_PIECE)


def get_tree(shell: Shell, path: str, into: Path) -> None:
    """Copies what is in a directory of the guest into one of the host; nothing lands outside of it.

    Raises:
        ChannelError: the archive is damaged, or holds device nodes or ways out of the directory (tarfile's filter
            `data` refuses them).
    """
    with tempfile.TemporaryFile() as file, _temporary(shell) as remote:
        shell.run(f"tar -C {shlex.quote(path)} -cf {remote} .", within=_A_PIECE)
        _fetch(shell, remote, file)
        into.mkdir(parents=True, exist_ok=True)
        try:
            with tarfile.open(fileobj=file) as archive:
                archive.extractall(into, filter="data")
        except tarfile.TarError as error:
            raise ChannelError(f"the archive of {path} cannot be unpacked: {error}") from error


def _send(shell: Shell, file: IO[bytes], path: str) -> None:
    shell.run(f": >{shlex.quote(path)}")
    while piece := file.read(PIECE):
        shell.run(f"cat >>{shlex.quote(path)}", input=piece, within=_A_PIECE)
    _compare(shell, path, file)


def _fetch(shell: Shell, path: str, file: IO[bytes]) -> None:
    shell.run(f"[ -r {shlex.quote(path)} ]")
    for number in range(1 << 40):
        piece = shell.run(f"dd if={shlex.quote(path)} bs={PIECE} skip={number} count=1", within=_A_PIECE).output
        file.write(piece)
        if len(piece) < PIECE:
            break
    _compare(shell, path, file)


def _compare(shell: Shell, path: str, file: IO[bytes]) -> None:
    said = shell.run(f"exec <{shlex.quote(path)}; {TOOLS}", within=_A_PIECE).stdout
    file.seek(0)
    if not same(file, said):
        raise ChannelError(f"{path}: the digests of the two ends differ", evidence=said)
    file.seek(0)


@contextlib.contextmanager
def _temporary(shell: Shell) -> Iterator[str]:
    """The name of a file of the guest that does not outlast the context."""
    remote = shell.run("mktemp /var/tmp/lifsea-testbed.XXXXXX").stdout.strip()
    try:
        yield remote
    finally:
        shell.run(f"rm -f {remote}", check=False)
