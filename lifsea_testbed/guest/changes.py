"""The changes on a machine between two observations: files, processes, mounts and modules.

A changed file is recognised by the time at which its inode changed (ctime), which no ordinary tool sets back: an
observation leaves a mark file, and the next one lists the files that changed after it. A new mark is written twice,
because its directory may have changed a clock tick after the first write. Kernel threads, and the processes below the
test bed's own shell, do not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lifsea_testbed.errors import NotJudged, Reason
from lifsea_testbed.guest.answers import readable
from lifsea_testbed.support.lines import split_lines
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
    """A process, identified within one boot by its `pid` and `start` (clock ticks since the boot) together."""

    pid: int
    parent: int
    name: str
    start: int


@dataclass(frozen=True, kw_only=True)
class SystemState:
    """One observation: the files that changed since the last one, the processes, the mounts and modules."""

    changed: tuple[str, ...]
    processes: frozenset[tuple[int, int, str]]
    mounted: frozenset[str]


def observe(shell: Shell, paths: Sequence[str]) -> SystemState:
    """Returns the changed files below those paths, the processes, the mounts, and the modules.

    Raises:
        NotJudged: the guest has no `find`.
        AnswerUnreadable: the lists cannot be told apart.
    """
    result = shell.run(_SCRIPT.format(paths=" ".join(paths)), check=False)
    if not result.ok:
        raise NotJudged("the changes that a test makes cannot be listed: the image has no find(1)", Reason.IMAGE)
    with readable(result, expected="files, processes and mounts, with an empty line between them"):
        return parse(result.stdout)


def parse(output: str) -> SystemState:
    """Parses the output of the script: three parts with an empty line between them."""
    changed, processes, mounted = ([*map(str.strip, split_lines(part))] for part in f"\n{output}".split("\n\n", 2))
    own, *rows = processes
    return SystemState(changed=tuple(filter(None, changed)),
                       mounted=frozenset(_module_or_mount(line) for line in mounted),
                       processes=_user_processes([_process(row) for row in rows], int(own)))  # fmt: skip


def differences(before: SystemState, after: SystemState, *, files: Iterable[str],
                processes: Iterable[str]) -> list[str]:
    """Returns the changes, a line each, except files and names of processes that match one of the patterns."""
    allowed_files, allowed_processes = _any(files), _any(processes)
    lines = [f"changed: {path}" for path in after.changed if not allowed_files.fullmatch(path)]
    for verb, found in (("ended", before.processes - after.processes), ("started", after.processes - before.processes)):
        lines += [f"process {verb}: {name}" for _, _, name in sorted(found) if not allowed_processes.fullmatch(name)]
    lines += [f"gone: {line}" for line in sorted(before.mounted - after.mounted)]
    return lines + [f"new: {line}" for line in sorted(after.mounted - before.mounted)]


def _process(row: str) -> Process:
    found = _STAT.match(row)
    if found is None:
        return Process(pid=0, parent=_KERNEL, name="", start=0)
    return Process(pid=int(found["pid"]), parent=int(found["parent"]), name=found["name"], start=int(found["start"]))


def _user_processes(processes: list[Process], own: int) -> frozenset[tuple[int, int, str]]:
    """The processes of user space that do not descend from the test bed's shell."""
    parents = {process.pid: process.parent for process in processes}
    root = own
    while parents.get(root, 1) > 1:
        root = parents[root]
    return frozenset((process.pid, process.start, process.name) for process in processes
                     if _KERNEL not in (process.pid, process.parent)
                     and (process.pid == root or root not in _ancestry(process.pid, parents)))  # fmt: skip


def _ancestry(pid: int, parents: dict[int, int]) -> set[int]:
    """The process and its ancestors."""
    ancestry: set[int] = set()
    while pid > 1 and pid not in ancestry:
        ancestry.add(pid)
        pid = parents.get(pid, 0)
    return ancestry


def _module_or_mount(line: str) -> str:
    """A line of /proc/modules without its count of users; one of /proc/mounts as it is."""
    words = line.split()
    return f"module {words[0]}" if len(words) > 2 and words[1].isdigit() else line


def _any(patterns: Iterable[str]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns) or r"(?!)")
