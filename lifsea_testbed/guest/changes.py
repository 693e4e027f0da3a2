"""The changes on a machine between two looks: files, processes, mounts and modules.

A changed file is recognised by the time at which its inode changed, which no ordinary tool sets back: a look leaves a
mark, and the next one lists the newer files. A new mark is written once more: its directory may have changed a tick of
the clock after it. Kernel threads, and the processes below the test bed's own shell, do not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lifsea_testbed.errors import ChannelError
from lifsea_testbed.support.protocols import Shell

_SCRIPT = r"""mark=/run/lifsea-testbed-mark
if [ -e $mark ]; then find {paths} -xdev -cnewer $mark 2>/dev/null; else : >$mark; fi
: >$mark
echo
echo $$
cat /proc/[0-9]*/stat 2>/dev/null
echo
cat /proc/self/mounts /proc/modules 2>/dev/null
command -v find >/dev/null
"""
_STAT = re.compile(r"(?P<pid>\d+) \((?P<name>.*)\) \S (?P<parent>\d+) (?:\S+ ){17}(?P<start>\d+) ")
#: All kernel threads are children of kthreadd, which is process 2.
_KERNEL = 2


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process: no two of one boot have both the identifier and the start (clock ticks since the boot) in common."""

    pid: int
    parent: int
    name: str
    start: int


@dataclass(frozen=True, kw_only=True)
class Look:
    """The result of one look: the files that changed since the last one, processes, mounts and modules."""

    changed: tuple[str, ...]
    processes: frozenset[tuple[int, int, str]]
    mounted: frozenset[str]


def look(shell: Shell, paths: Sequence[str]) -> Look:
    """Returns the changed files below those paths, the processes, the mounts, and the modules.

    Raises:
        ChannelError: the guest has no `find`.
    """
    result = shell.run(_SCRIPT.format(paths=" ".join(paths)), check=False)
    if not result.ok:
        raise ChannelError("the changes on this machine cannot be listed", expected="the guest has find",
                           evidence=result.stderr)  # fmt: skip
    return parse(result.stdout)


def parse(output: str) -> Look:
    """Reads the output of the script: three parts with an empty line between them."""
    changed, processes, mounted = ([*map(str.strip, part.splitlines())] for part in f"\n{output}".split("\n\n", 2))
    own, *rows = processes
    return Look(changed=tuple(filter(None, changed)), mounted=frozenset(_module_or_mount(line) for line in mounted),
                processes=_others([_process(row) for row in rows], int(own)))  # fmt: skip


def differences(before: Look, after: Look, *, files: Iterable[str], processes: Iterable[str]) -> list[str]:
    """Returns the changes, a line each, without the files and the names of processes that match one of the patterns."""
    may_change, may_come = _any(files), _any(processes)
    lines = [f"changed: {path}" for path in after.changed if not may_change.fullmatch(path)]
    for verb, some in (("ended", before.processes - after.processes), ("started", after.processes - before.processes)):
        lines += [f"process {verb}: {name}" for _, _, name in sorted(some) if not may_come.fullmatch(name)]
    lines += [f"no longer there: {line}" for line in sorted(before.mounted - after.mounted)]
    return lines + [f"new: {line}" for line in sorted(after.mounted - before.mounted)]


def _process(row: str) -> Process:
    found = _STAT.match(row)
    if found is None:
        return Process(pid=0, parent=_KERNEL, name="", start=0)
    return Process(pid=int(found["pid"]), parent=int(found["parent"]), name=found["name"], start=int(found["start"]))


def _others(processes: list[Process], own: int) -> frozenset[tuple[int, int, str]]:
    """The processes of user space that do not descend from the test bed's shell."""
    parents = {process.pid: process.parent for process in processes}
    root = own
    while parents.get(root, 1) > 1:
        root = parents[root]
    return frozenset((process.pid, process.start, process.name) for process in processes
                     if _KERNEL not in (process.pid, process.parent)
                     and (process.pid == root or root not in _line(process.pid, parents)))  # fmt: skip


def _line(pid: int, parents: dict[int, int]) -> set[int]:
    """The process and its ancestors."""
    line: set[int] = set()
    while pid > 1 and pid not in line:
        line.add(pid)
        pid = parents.get(pid, 0)
    return line


def _module_or_mount(line: str) -> str:
    """A line of /proc/modules without its count of users; one of /proc/mounts as it is."""
    words = line.split()
    return f"module {words[0]}" if len(words) > 2 and words[1].isdigit() else line


def _any(patterns: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns) or r"(?!)")
