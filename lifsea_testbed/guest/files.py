"""The file system as root finds it: what can be written, what lies where, what can be executed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from pathlib import PurePosixPath

from lifsea_testbed.support.protocols import Shell

#: The kernel's own interfaces: no files of the system, whatever their permission bits say.
_KERNEL_INTERFACES = (
    "proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue", "hugetlbfs", "securityfs", "debugfs", "tracefs",
    "configfs", "pstore", "bpf", "efivarfs", "binfmt_misc", "fusectl", "autofs", "rpc_pipefs", "nsfs",
)  # fmt: skip
#: Content of containers and of the object store: not executables of the running system.
NOT_OF_THE_SYSTEM = ("/sysroot/ostree", "/ostree", "/var/lib/containerd", "/run/containerd", "/var/lib/kubelet")
_CENSUS = 120.0
_PROBE = ".lifsea-testbed"


def writable_paths(shell: Shell) -> list[str]:
    """Returns the topmost directories, on any mount, that root can write to, sorted; each under its shortest name.

    access(2), which find asks, refuses a file system or a mount that is read-only, and an immutable directory.
    A directory that is mounted twice, as ostree mounts /var below /sysroot as well, is one directory.
    """
    script = f"find / {_prune(_kernel_interfaces())} -type d -writable -printf '%D:%i %p\\0' -prune"
    names: dict[str, str] = {}
    for found in sorted(_names(shell, script), key=len, reverse=True):
        identity, _, path = found.partition(" ")
        names[identity] = path
    return sorted(names.values())


def accepted_writes(shell: Shell, directories: Iterable[str]) -> list[str]:
    """Tries to make a file in each directory, as root, and returns those where that went well; the file is removed."""
    script = f"""for directory in {shlex.join(directories)}; do
        [ -d "$directory" ] || continue
        if ( : >"$directory/{_PROBE}" ) 2>/dev/null; then rm -f "$directory/{_PROBE}"; echo "$directory"; fi
    done"""
    return shell.run(script).lines


def executables(shell: Shell) -> list[PurePosixPath]:
    """Returns every executable regular file of the running system, sorted."""
    script = f"find / {_prune(_not_of_the_system())} -type f -perm /111 -print0"
    return sorted(map(PurePosixPath, _names(shell, script)))


def setuid(shell: Shell) -> list[PurePosixPath]:
    """Returns every regular file that gives privileges to whoever starts it: setuid, setgid, or capabilities."""
    files = f"find / {_prune(_not_of_the_system())} -type f"
    bits = _names(shell, f"{files} -perm /6000 -print0")
    able = shell.run(f"command -v getcap >/dev/null && {files} -perm /111 -print0 | xargs -0 getcap", check=False,
                     within=_CENSUS)  # fmt: skip
    return sorted({PurePosixPath(name) for name in (*bits, *(line.rpartition(" ")[0] for line in able.lines))})


def holding(shell: Shell, marks: Iterable[str]) -> list[str]:
    """Returns the executables in whose content one of the marks occurs, sorted."""
    sought = shlex.join(argument for mark in marks for argument in ("-e", mark))
    files = f"find / {_prune(_not_of_the_system())} -type f -perm /111 -print0"
    # xargs ends with 123 where one grep found nothing.
    script = f"{files} | LC_ALL=C xargs -0 -r grep -l -a -F {sought} || [ $? = 123 ]"
    return sorted(shell.run(script, within=_CENSUS).lines)


def matching(shell: Shell, patterns: Iterable[str]) -> list[str]:
    """Returns the files whose name fits one of the shell's patterns, sorted."""
    names = [argument for pattern in patterns for argument in ("-o", "-name", pattern)][1:]
    return sorted(_names(shell, f"find / {_prune(_not_of_the_system())} \\( {shlex.join(names)} \\) -type f -print0"))


def digests(shell: Shell, directory: str) -> list[str]:
    """Returns, of each file and link below a directory, a line with its mode, owner, target and digest, sorted."""
    below = f"cd {shlex.quote(directory)} && find ."
    listed = shell.run(f"{below} -printf '%p %y %m %U:%G %l\\n'", within=_CENSUS).lines
    return sorted(listed + shell.run(f"{below} -type f -print0 | xargs -0 -r sha256sum", within=_CENSUS).lines)


def named(paths: Iterable[PurePosixPath], patterns: Iterable[str]) -> list[str]:
    """Returns the paths whose file name is one of the patterns (regular expressions over the whole name)."""
    expression = re.compile("|".join(f"(?:{pattern})" for pattern in patterns))
    return [str(path) for path in paths if expression.fullmatch(path.name)]


def link_target(shell: Shell, path: str) -> str:
    """Returns the path that this one leads to when every link is followed."""
    return shell.run(f"readlink -f {shlex.quote(path)}").stdout.rstrip("\n")


def file_system_of(shell: Shell, path: str) -> str:
    """Returns the type of the file system that the path lies on, as stat names it (tmpfs, ext2/ext3, …)."""
    return shell.run(f"stat -f -c %T {shlex.quote(path)}").stdout.strip()


def read(shell: Shell, path: str) -> str | None:
    """Returns the text of a file, or nothing if it does not exist."""
    result = shell.run(f"cat {shlex.quote(path)}", check=False)
    return result.stdout if result.ok else None


def write(shell: Shell, path: str, text: str) -> None:
    """Writes the text into a file and syncs the file system that it lies on."""
    shell.run(f"printf %s {shlex.quote(text)} >{shlex.quote(path)} && sync")


def _kernel_interfaces() -> list[str]:
    return [argument for name in _KERNEL_INTERFACES for argument in ("-o", "-fstype", name)][1:]


def _not_of_the_system() -> list[str]:
    places = [argument for path in NOT_OF_THE_SYSTEM for argument in ("-o", "-path", path)]
    return [*_kernel_interfaces(), *places]


def _prune(tests: list[str]) -> str:
    return f"\\( {shlex.join(tests)} \\) -prune -o"


def _names(shell: Shell, script: str) -> list[str]:
    # find ends with 1 when a file vanishes under it, as files of a running system do.
    found = shell.run(f"{script} || [ $? = 1 ]", within=_CENSUS).stdout
    return [name for name in found.split("\0") if name]
