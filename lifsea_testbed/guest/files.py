"""The files of the guest: what can be written, what lies where, what can be executed; and transfers, by digest."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import shlex
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from lifsea_testbed.errors import ChannelError
from lifsea_testbed.guest.answers import readable, unreadable
from lifsea_testbed.support.digest import TOOLS, parse_digest, same
from lifsea_testbed.support.protocols import Shell

#: The kernel's own interfaces: no files of the system, regardless of their permission bits.
_KERNEL_INTERFACES = (
    "proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue", "hugetlbfs", "securityfs", "debugfs", "tracefs",
    "configfs", "pstore", "bpf", "efivarfs", "binfmt_misc", "fusectl", "autofs", "rpc_pipefs", "nsfs",
)  # fmt: skip
#: Content of containers and of the object store: not executables of the running system.
NOT_OF_THE_SYSTEM = ("/sysroot/ostree", "/ostree", "/var/lib/containerd", "/run/containerd", "/var/lib/kubelet")
#: Time for one pass over all files (seconds on real hardware).
_CENSUS = 120.0
_PROBE = ".lifsea-testbed"
_WRITE_PROBE = """for directory in {directories}; do
        [ -d "$directory" ] || continue
        if ( : >"$directory/{probe}" ) 2>/dev/null; then rm -f "$directory/{probe}"; echo "$directory"; fi
    done"""
#: Bytes per command of a transfer: large enough that the cost of a command does not count, small enough for the
#: memory of any guest.
PIECE = 4 << 20
#: Time for one piece (seconds on real hardware): the slowest channel, 115200 baud, needs six minutes.
_A_PIECE = 400.0


class Files:
    """The file system as root sees it."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    # One file or directory

    def read(self, path: str) -> str | None:
        """Returns the text of a file, or nothing if it does not exist."""
        result = self._shell.run(f"cat {shlex.quote(path)}", check=False)
        return result.stdout if result.ok else None

    def write(self, path: str, text: str) -> None:
        """Writes the text into a file and syncs the file system that it lies on."""
        self._shell.run(f"printf %s {shlex.quote(text)} >{shlex.quote(path)} && sync")

    def link_target(self, path: str) -> str:
        """Returns the path that this one leads to when every link is followed."""
        return self._shell.run(f"readlink -f {shlex.quote(path)}").stdout.rstrip("\n")

    def file_system_of(self, path: str) -> str:
        """Returns the type of the file system that the path lies on, as stat names it (tmpfs, ext2/ext3, …)."""
        return self._shell.run(f"stat -f -c %T {shlex.quote(path)}").stdout.strip()

    def names_in(self, directory: str) -> list[str]:
        """Returns the names in a directory; none if it does not exist."""
        return self._shell.run(["ls", "-A", directory], check=False).lines

    # Transfers

    def put(self, content: bytes | Path, path: str) -> None:
        """Writes a file of the guest as a whole, replacing what was there, and compares digests.

        Raises:
            ChannelError: the digests of the two ends differ.
            CommandFailed: the guest could not write it.
        """
        with content.open("rb") if isinstance(content, Path) else io.BytesIO(content) as file:
            self._send(file, path)

    def get(self, path: str, into: Path) -> None:
        """Copies a file of the guest to the host, and compares digests.

        Raises:
            ChannelError: the digests of the two ends differ.
            CommandFailed: the guest could not read it.
        """
        with into.open("w+b") as file:
            self._fetch(path, file)

    def put_tree(self, directory: Path, path: str) -> None:
        """Copies the contents of a directory of the host into one of the guest, which is created if needed."""
        with tempfile.TemporaryFile() as file, self._temporary() as remote:
            with tarfile.open(fileobj=file, mode="w") as archive:
                archive.add(directory, arcname=".")
            file.seek(0)
            self._send(file, remote)
            self._shell.run(f"mkdir -p {shlex.quote(path)} && tar -C {shlex.quote(path)} -xf {remote}", within=_A_PIECE)

    def get_tree(self, path: str, into: Path) -> None:
        """Copies the contents of a directory of the guest into one of the host; nothing lands outside of it.

        Raises:
            ChannelError: the digests of the two ends differ.
            AnswerUnreadable: the archive that the guest made is damaged, or holds device nodes or paths out of the
                directory (tarfile's filter `data` refuses them).
        """
        with tempfile.TemporaryFile() as file, self._temporary() as remote:
            packed = self._shell.run(f"tar -C {shlex.quote(path)} -cf {remote} .", within=_A_PIECE)
            self._fetch(remote, file)
            into.mkdir(parents=True, exist_ok=True)
            try:
                with tarfile.open(fileobj=file) as archive:
                    archive.extractall(into, filter="data")
            except tarfile.TarError as error:
                raise unreadable(packed, why=f"the archive of {path} cannot be unpacked: {error}") from error

    # All files

    def writable_paths(self) -> list[str]:
        """Returns the topmost directories, on any mount, that root can write to, sorted; each under its shortest name.

        find's -writable calls access(2), which refuses a read-only file system or mount, and an immutable directory.
        A directory that is mounted twice, as ostree mounts /var below /sysroot as well, is one directory.
        """
        script = f"find / {_prune(_kernel_interfaces())} -type d -writable -printf '%D:%i %p\\0' -prune"
        names: dict[str, str] = {}
        for found in sorted(self._find(script), key=len, reverse=True):
            identity, _, path = found.partition(" ")
            names[identity] = path
        return sorted(names.values())

    def accepted_writes(self, directories: Iterable[str]) -> list[str]:
        """Creates a file in each directory, as root, removes it, and returns the directories where that worked."""
        return self._shell.run(_WRITE_PROBE.format(directories=shlex.join(directories), probe=_PROBE)).lines

    @functools.cached_property
    def executables(self) -> list[PurePosixPath]:
        """Every executable regular file of the running system, sorted; searched once."""
        script = f"find / {_prune(_not_of_the_system())} -type f -perm /111 -print0"
        return sorted(map(PurePosixPath, self._find(script)))

    def executables_named(self, patterns: Iterable[str]) -> list[str]:
        """Returns the executables whose file name is one of the patterns (regular expressions over the whole name)."""
        return named(self.executables, patterns)

    def executables_holding(self, marks: Iterable[str]) -> list[str]:
        """Returns the executables in whose content one of the marks occurs, sorted."""
        sought = shlex.join(argument for mark in marks for argument in ("-e", mark))
        files = f"find / {_prune(_not_of_the_system())} -type f -perm /111 -print0"
        # xargs ends with 123 where one grep found nothing.
        script = f"{files} | LC_ALL=C xargs -0 -r grep -l -a -F {sought} || [ $? = 123 ]"
        return sorted(self._shell.run(script, within=_CENSUS).lines)

    def matching(self, patterns: Iterable[str]) -> list[str]:
        """Returns the files whose name matches one of the shell's patterns, sorted."""
        names = [argument for pattern in patterns for argument in ("-o", "-name", pattern)][1:]
        return sorted(self._find(f"find / {_prune(_not_of_the_system())} \\( {shlex.join(names)} \\) -type f -print0"))

    def setuid(self) -> list[str]:
        """Returns every regular file that gives privileges to its caller, sorted: setuid, setgid, or capabilities."""
        files = f"find / {_prune(_not_of_the_system())} -type f"
        bits = self._find(f"{files} -perm /6000 -print0")
        able = self._shell.run(f"command -v getcap >/dev/null && {files} -perm /111 -print0 | xargs -0 getcap",
                               check=False, within=_CENSUS)  # fmt: skip
        found = {PurePosixPath(name) for name in (*bits, *(line.rpartition(" ")[0] for line in able.lines))}
        return list(map(str, sorted(found)))

    def digests(self, directory: str) -> list[str]:
        """Returns two lines per file below a directory, sorted: its type, mode, owner and link target; its digest."""
        below = f"cd {shlex.quote(directory)} && find ."
        listed = self._shell.run(f"{below} -printf '%p %y %m %U:%G %l\\n'", within=_CENSUS)
        summed = self._shell.run(f"{below} -type f -print0 | xargs -0 -r sha256sum", within=_CENSUS)
        return sorted(listed.lines + summed.lines)

    def _find(self, script: str) -> list[str]:
        # find ends with 1 when a file vanishes under it, as files of a running system do.
        found = self._shell.run(f"{script} || [ $? = 1 ]", within=_CENSUS).stdout
        return [name for name in found.split("\0") if name]

    def _send(self, file: IO[bytes], path: str) -> None:
        self._shell.run(f": >{shlex.quote(path)}")
        while piece := file.read(PIECE):
            self._shell.run(f"cat >>{shlex.quote(path)}", input=piece, within=_A_PIECE)
        self._compare(path, file)

    def _fetch(self, path: str, file: IO[bytes]) -> None:
        self._shell.run(f"[ -r {shlex.quote(path)} ]")
        for number in range(1 << 40):
            script = f"dd if={shlex.quote(path)} bs={PIECE} skip={number} count=1"
            piece = self._shell.run(script, within=_A_PIECE).output
            file.write(piece)
            if len(piece) < PIECE:
                break
        self._compare(path, file)

    def _compare(self, path: str, file: IO[bytes]) -> None:
        digest = self._shell.run(f"exec <{shlex.quote(path)}; {TOOLS}", within=_A_PIECE)
        file.seek(0)
        with readable(digest, expected="a digest in hexadecimal, or `none`"):
            arrived = same(file, parse_digest(digest.stdout))
        if not arrived:
            raise ChannelError(f"{path}: the digest of the guest's file is not that of the host's",
                               expected="a transfer that keeps every byte", evidence=digest.stdout)  # fmt: skip
        file.seek(0)

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[str]:
        """The name of a file of the guest that is removed when the context is left."""
        remote = self._shell.run("mktemp /var/tmp/lifsea-testbed.XXXXXX").stdout.strip()
        try:
            yield remote
        finally:
            self._shell.run(f"rm -f {remote}", check=False)


def named(paths: Iterable[PurePosixPath], patterns: Iterable[str]) -> list[str]:
    """Returns the paths whose file name is one of the patterns (regular expressions over the whole name)."""
    expression = re.compile("|".join(f"(?:{pattern})" for pattern in patterns))
    return [str(path) for path in paths if expression.fullmatch(path.name)]


def _kernel_interfaces() -> list[str]:
    return [argument for name in _KERNEL_INTERFACES for argument in ("-o", "-fstype", name)][1:]


def _not_of_the_system() -> list[str]:
    places = [argument for path in NOT_OF_THE_SYSTEM for argument in ("-o", "-path", path)]
    return [*_kernel_interfaces(), *places]


def _prune(tests: list[str]) -> str:
    return f"\\( {shlex.join(tests)} \\) -prune -o"
