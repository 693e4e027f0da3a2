"""The files of the guest: what can be written, what lies where, what can be executed; and transfers, by digest."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import shlex
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from lifsea_testbed.errors import AnswerUnreadable, ChannelError, CommandFailed, NotJudged, Reason
from lifsea_testbed.guest import archives, capabilities, formats
from lifsea_testbed.guest.answers import readable, unreadable
from lifsea_testbed.support.digest import TOOLS, parse_digest, same
from lifsea_testbed.support.protocols import Shell

#: The kernel's own interfaces: no files of the system, regardless of their permission bits.
KERNEL_INTERFACES = (
    "proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue", "hugetlbfs", "securityfs", "debugfs", "tracefs",
    "configfs", "pstore", "bpf", "efivarfs", "binfmt_misc", "fusectl", "autofs", "rpc_pipefs", "nsfs",
)  # fmt: skip
#: Content of containers, and what ostree keeps of other deployments (find's patterns): not files of the running system.
NOT_OF_THE_SYSTEM = (
    "/sysroot/ostree/repo", "/sysroot/ostree/deploy", "/ostree/repo", "/ostree/deploy",
    "/var/lib/containerd/io.containerd.*", "/var/lib/containerd/tmpmounts", "/run/containerd/io.containerd.*",
    "/var/lib/kubelet/pods",
)  # fmt: skip
#: The most bytes of a file that is searched for whole lines.
SMALL = 32 << 10
#: Time for one pass over all files (seconds on real hardware).
_CENSUS = 120.0
_PROBE = ".lifsea-testbed"
#: Creates a file in each directory that are its arguments; `true` is no special builtin, so that the shell goes on when
#: the redirection fails.
_WRITE_PROBE = f"""for directory; do
    if {{ true >"$directory/{_PROBE}"; }} 2>/dev/null; then
        rm -f "$directory/{_PROBE}"
        printf '%s\\0' "$directory"
    fi
done"""
# Prints each file that holds a mark with its mode and the bytes that tell what it is (formats.PIECES).
_DESCRIBE = f"""for file; do
    printf '%s ' "$(stat -c %a "$file")"
    {formats.READ_PIECES}
    printf '%s\\0' "$file"
done 2>/dev/null"""
#: What a search needs beside the shell; the status when one of them is missing is that of no command of its own.
_NO_TOOL = 86
_REQUIRE_TOOLS = f"""for tool in find xargs grep od stat; do
    command -v $tool >/dev/null || {{ echo "it has no $tool" >&2; exit {_NO_TOOL}; }}
done"""
#: Bytes per command of a transfer: large enough that the cost of a command does not count, small enough for the
#: memory of any guest.
PIECE = 4 << 20
#: The largest file that is fetched (bytes): the guest cannot fill the host's disk.
_LARGEST_FILE = 16 << 30
#: Time for one piece (seconds on real hardware): the slowest channel, 115200 baud, needs six minutes.
_A_PIECE = 400.0


class Files:
    """The file system as root sees it; `own` returns the paths of programs that the test bed put there."""

    def __init__(self, shell: Shell, own: Callable[[], Sequence[str]] = tuple) -> None:
        self._shell, self._own = shell, own

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
            AnswerUnreadable: it does not end within 16 GiB.
        """
        with into.open("w+b") as file:
            self._fetch(path, file, largest=_LARGEST_FILE)

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
            AnswerUnreadable: the archive that the guest made is damaged, larger than `archives.unpack` takes, or holds
                device nodes or paths out of the directory.
            HostError: the host cannot write the files.
        """
        with tempfile.TemporaryFile() as file, self._temporary() as remote:
            packed = self._shell.run(f"tar -C {shlex.quote(path)} -cf {remote} .", within=_A_PIECE)
            self._fetch(remote, file, largest=archives.LARGEST)
            into.mkdir(parents=True, exist_ok=True)
            try:
                archives.unpack(file, into)
            except archives.UnreadableArchive as error:
                raise unreadable(packed, why=f"the archive of {path} cannot be unpacked: {error}") from error

    # All files

    def writable_paths(self) -> list[str]:
        """Returns the topmost directories, and the files in other directories, that root can write to, sorted.

        On any mount, each under its shortest name. find's -writable calls access(2), which refuses a read-only file
        system or mount, and an immutable file. A directory that is mounted twice, as ostree mounts /var below /sysroot
        as well, is one directory.
        """
        kinds = r"\( -type d -o -type f \) -writable"
        script = f"find / {_prune(_kernel_interfaces())} {kinds} -printf '%D:%i %p\\0' -prune"
        names: dict[str, str] = {}
        for found in sorted(self._find(script), key=len, reverse=True):
            identity, _, path = found.partition(" ")
            names[identity] = path
        return sorted(names.values())

    def accepted_writes(self, directories: Iterable[str]) -> list[str]:
        """Creates a file in each directory, as root, removes it, and returns the directories where that worked.

        A directory that does not exist accepts nothing; `missing` names those.
        """
        script = f"printf '%s\\0' {shlex.join(directories)} | {_for_each(_WRITE_PROBE)}"
        return self._find(script)

    def accepted_writes_outside(self, directories: Iterable[str]) -> list[str]:
        """Creates a file in every directory of every mount outside of those, as root, and returns where that worked.

        A directory that is one of them under another name is not outside of them.
        """
        given = list(directories)
        there = set(given) - set(self.missing(given))
        inside = [argument for path in sorted(there) for argument in ("-o", "-samefile", path)]
        search = f"find / {_prune([*_kernel_interfaces(), *inside])} -type d -print0"
        return sorted(self._find(f"{search} | {_for_each(_WRITE_PROBE)}"))

    def missing(self, paths: Iterable[str]) -> list[str]:
        """Returns the paths at which nothing exists."""
        script = f"for path in {shlex.join(paths)}; do [ -e \"$path\" ] || printf '%s\\0' \"$path\"; done"
        return self._find(script)

    @functools.cached_property
    def listed(self) -> dict[PurePosixPath, int]:
        """Every regular file of the running system with its mode (stat(2)); searched once."""
        found = self._find(f"find / {_prune(_not_of_the_system())} -type f -printf '%m %p\\0'")
        pairs = (row.partition(" ") for row in found)
        return {PurePosixPath(path): formats.octal(mode) for mode, _, path in pairs}

    def executables_named(self, patterns: Iterable[str]) -> list[str]:
        """Returns the programs whose whole file name matches one of the patterns (regular expressions), sorted.

        A program is a file that may be executed, and one of an executable format (ELF, a script) whatever its mode: the
        dynamic loader and other interpreters run it as well.
        """
        expression = re.compile("|".join(f"(?:{pattern})" for pattern in patterns))
        return self._programs([path for path in self.listed if expression.fullmatch(path.name)])

    def executables_holding(self, marks: Iterable[str]) -> list[str]:
        """Returns the programs, libraries, archives and disk images in whose content one of the marks occurs, sorted.

        Of any name and any mode; other files, such as documentation, do not count.
        """
        return self._without_own(self._holding(marks, formats.holds_programs))

    def programs_holding(self, marks: Iterable[str]) -> list[str]:
        """Returns the programs and libraries in whose content one of the marks occurs, sorted, without archives."""
        return self._without_own(self._holding(marks, formats.is_program))

    def _without_own(self, paths: list[str]) -> list[str]:
        own = self._own_targets() if paths else []
        return [path for path in paths if path not in own]

    def _own_targets(self) -> list[str]:
        words = shlex.join(self._own())
        return self._shell.run(f"for path in {words}; do readlink -f \"$path\"; done; :").lines if words else []

    def _holding(self, marks: Iterable[str], test: Callable[[formats.FileHead], bool]) -> list[str]:
        """The files whose content holds one of the marks and whose head passes the test."""
        sought = shlex.join(argument for mark in marks for argument in ("-e", mark))
        files = f"find / {_prune(_not_of_the_system())} -type f -print0"
        # xargs ends with 123 where one grep found nothing, or where a file vanished.
        grep = f"LC_ALL=C xargs -0 -r grep -l -a -F -Z -s {sought}"
        found = self._search(f"{{ {files} | {grep} || :; }} | {_for_each(_DESCRIBE)}")
        return _described(found, test)

    def _programs(self, paths: Sequence[PurePosixPath]) -> list[str]:
        """Those of the paths that are programs, sorted."""
        by_mode = [str(path) for path in paths if self.listed[path] & formats.EXECUTABLE]
        others = "".join(f"{path}\0" for path in paths if not self.listed[path] & formats.EXECUTABLE)
        if not others:
            return sorted(by_mode)
        described = self._search(_for_each(_DESCRIBE), others)
        return sorted(by_mode + _described(described, formats.is_program))

    def matching(self, patterns: Iterable[str]) -> list[str]:
        """Returns the files whose name matches one of the shell's patterns, sorted."""
        names = [argument for pattern in patterns for argument in ("-o", "-name", pattern)][1:]
        return sorted(self._find(f"find / {_prune(_not_of_the_system())} \\( {shlex.join(names)} \\) -type f -print0"))

    def holding(self, lines: Iterable[str]) -> list[str]:
        """Returns the small files, of at most 32 KiB, that have one of these as a whole line, sorted."""
        sought = shlex.join(argument for line in lines for argument in ("-e", line))
        files = f"find / {_prune(_not_of_the_system())} -type f -size -{SMALL // 512 + 1} -print0"
        found = self._search(f"{{ {files} | xargs -0 -r grep -l -x -F -Z -s {sought} || :; }}")
        return sorted(name for name in found.split("\0") if name)

    def setuid(self) -> list[str]:
        """Returns every regular file that gives privileges to its caller, sorted: setuid, setgid, or capabilities.

        Raises:
            NotJudged: the image has none of the tools that read capabilities (getcap, getfattr, GNU tar).
        """
        files = f"find / {_prune(_not_of_the_system())} -type f"
        able = self._shell.run(capabilities.SCRIPT.format(files=f"{files} -perm /111 -print0"), check=False,
                               within=_CENSUS)
        found = {*self._find(f"{files} -perm /6000 -print0"), *capabilities.parse(able)}
        return sorted(found)

    def digests(self, directory: str) -> list[str]:
        """Returns two lines per file below a directory, sorted: its type, mode, owner and link target; its digest."""
        below = f"cd {shlex.quote(directory)} && find ."
        listed = self._shell.run(f"{below} -printf '%p %y %m %U:%G %l\\n'", within=_CENSUS)
        summed = self._shell.run(f"{below} -type f -print0 | xargs -0 -r sha256sum", within=_CENSUS)
        return sorted(listed.lines + summed.lines)

    def _find(self, script: str) -> list[str]:
        # find ends with 1 when a file vanishes under it, as files of a running system do.
        found = self._search(f"{script} || [ $? = 1 ]")
        return [name for name in found.split("\0") if name]

    def _search(self, script: str, input: str = "") -> str:
        result = self._shell.run(f"{_REQUIRE_TOOLS}\n{script}", check=False, within=_CENSUS,
                                 input=input.encode("utf-8", "surrogateescape"))  # fmt: skip
        if result.exit_status == _NO_TOOL:
            raise NotJudged(f"the image's files cannot be searched: {result.stderr.strip()[-200:]}", Reason.IMAGE)
        if not result.ok:
            raise CommandFailed("the guest's files cannot be searched", expected="a search that ends with status 0",
                                evidence=f"{result.script}\n{result.stderr}")  # fmt: skip
        return result.stdout

    def _send(self, file: IO[bytes], path: str) -> None:
        self._shell.run(f": >{shlex.quote(path)}")
        while piece := file.read(PIECE):
            self._shell.run(f"cat >>{shlex.quote(path)}", input=piece, within=_A_PIECE)
        self._compare(path, file)

    def _fetch(self, path: str, file: IO[bytes], *, largest: int) -> None:
        self._shell.run(f"[ -r {shlex.quote(path)} ]")
        for number in range(largest // PIECE):
            script = f"dd if={shlex.quote(path)} bs={PIECE} skip={number} count=1"
            piece = self._shell.run(script, within=_A_PIECE).output
            file.write(piece)
            if len(piece) < PIECE:
                self._compare(path, file)
                return
        raise AnswerUnreadable(f"{path}: the guest's file does not end within {largest >> 30} GiB",
                               hint="a device, or a file that something writes without pause")  # fmt: skip

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


def _for_each(script: str) -> str:
    """The command that runs the script with the names, each ended by a NUL, that it reads as arguments."""
    return f"xargs -0 -r sh -c {shlex.quote(script)} sh"


def _described(found: str, test: Callable[[formats.FileHead], bool]) -> list[str]:
    """The files of which the description passes the test, sorted."""
    rows = (row.split(" ", 1 + len(formats.PIECES)) for row in found.split("\0") if row)
    return sorted(row[-1] for row in rows if len(row) == 2 + len(formats.PIECES)
                  and test(formats.FileHead.parse(row[0], row[1:-1])))


def _kernel_interfaces() -> list[str]:
    return [argument for name in KERNEL_INTERFACES for argument in ("-o", "-fstype", name)][1:]


def _not_of_the_system() -> list[str]:
    places = [argument for path in NOT_OF_THE_SYSTEM for argument in ("-o", "-path", path)]
    return [*_kernel_interfaces(), *places]


def _prune(tests: list[str]) -> str:
    return f"\\( {shlex.join(tests)} \\) -prune -o"
