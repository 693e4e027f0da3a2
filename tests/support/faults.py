"""The matrix of faults: what goes wrong at which moment of a run, and what the run makes of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

_PAGE = """\
# What a sick host does to a run

Each row is a fault that the tests (`pytest tests/faults`) cause at a moment of a run whose guest is fine, and what the
run makes of it. Exit status 1 is not among them: it says that the image broke a promise, and nothing else. After each
of them no process, no private directory and no half-written report is left, and the verdict, where there is one, is the
last line of the output.

In the column of the reports, *new*: gate.json is of this run, and so are `junit.xml` and `summary.md`, if there is room
for them; *earlier*: those of the run before are still there, all of them. There is never a mix of two runs.

| fault | moment | exit | verdict | fault of | reports |
|---|---|---|---|---|---|
{rows}

A signal ends a run as Ctrl-C does: what was judged until then is in the reports, the verdict is *interrupted*, and a
second signal ends the process at once. A run that is killed (SIGKILL) leaves the reports of the run before as they are;
its own are removed by the next run, as are its private directories.
"""


class Moment(enum.StrEnum):
    """When a fault happens."""

    #: Before anything is checked.
    BEFORE = "before the start"
    START = "start"
    BOOT = "boot"
    TEST = "test"
    END = "end"
    #: After pytest's own end.
    LAST = "after the end"


class Reports(enum.StrEnum):
    """Whose reports there are after the run."""

    NEW = "new"
    EARLIER = "earlier"
    #: There is no directory that could have any.
    NONE = "none"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A fault at a moment, and what is expected of the run.

    `key` names what causes it in the run (tests/faults/causes.py); `shell` is run before pytest, which is `"$@"`.
    `small` ones have no room for more than a gate.json. `slow` cells are run at night,
    cells of `root` by root alone, who mounts file systems of their own.
    """

    fault: str
    moment: Moment
    key: str = ""
    shell: str = 'exec "$@"'
    options: tuple[str, ...] = ()
    status: int
    verdict: str = ""
    blame: str = ""
    reports: Reports
    says: str = ""
    machine: bool = False
    small: bool = False
    root: bool = False
    slow: bool = False

    def __str__(self) -> str:
        """The identifier of its test."""
        return f"{self.fault}, {self.moment}".replace(" ", "-")


def _interrupted(key: str, moment: Moment, *, machine: bool = False, options: tuple[str, ...] = (), fault: str = "",
                 slow: bool = False) -> Cell:
    before = moment is Moment.BEFORE
    return Cell(fault=fault or key, key=key, moment=moment, status=2, verdict="interrupted", machine=machine,
                options=options, reports=Reports.EARLIER if before else Reports.NEW, slow=slow,
                says=f"{key} ended the run before anything was judged" if before else f"{key} ended the run")


def _broken(fault: str, key: str, moment: Moment, says: str, **others: Any) -> Cell:
    fields = {"reports": Reports.NEW, **others}
    return Cell(fault=fault, key=key, moment=moment, status=6, verdict="broken", says=says, **fields)


def _refused(fault: str, says: str, **others: Any) -> Cell:
    return Cell(fault=fault, moment=Moment.BEFORE, status=4, says=says, reports=Reports.EARLIER, **others)


def _fine(fault: str, shell: str) -> Cell:
    return Cell(fault=fault, moment=Moment.BEFORE, status=0, verdict="pass", shell=shell, reports=Reports.NEW)


_WORKER = ("-n", "1")
#: The reports lie on a small disk of their own; afterwards they are copied out of it.
_SMALL = """
mkdir small; mount -t tmpfs -o size={size} small small; cp -a reports/. small/; mount --bind small reports
"$@"; status=$?
umount reports; rm -r reports; cp -a small reports; exit $status
"""
_FULL = 'exec unshare -m sh -c \'' + _SMALL.format(size="96k") + '\' sh "$@"'
#: The same for the directory of a run, and for its temporary files.
_READ_ONLY = """exec unshare -m sh -c '
mount --bind . . && cd "$PWD" && mount -t tmpfs tmp tmp && mount -o remount,bind,ro . && exec "$@"' sh "$@"
"""
_FULL_TMPDIR = """exec unshare -m sh -c '
mkdir full && mount -t tmpfs -o size=4k full full && head -c 4096 /dev/zero >full/ballast
TMPDIR=full exec "$@"' sh "$@"
"""
#: A program in the place of QEMU.
_FAKE = """mkdir bin && printf '#!/bin/sh\\n{}\\n' >bin/qemu-system-x86_64 && chmod 755 bin/*
PATH=$PWD/bin:$PATH exec "$@"
"""

CELLS = (
    *(_interrupted(key, moment) for key in ("SIGTERM", "SIGHUP", "SIGINT")
      for moment in (Moment.BEFORE, Moment.TEST, Moment.END)),
    *(_interrupted("SIGTERM", moment) for moment in (Moment.START, Moment.LAST)),
    *(_interrupted(key, Moment.BOOT, machine=True) for key in ("SIGTERM", "SIGHUP", "SIGINT")),
    *(_interrupted(key, Moment.TEST, options=_WORKER, fault=f"{key}, with workers", slow=key != "SIGTERM")
      for key in ("SIGTERM", "SIGHUP", "SIGINT")),
    _broken("a worker is killed", "worker", Moment.BOOT, "a worker died in", machine=True, options=_WORKER),
    _broken("a worker is killed", "worker", Moment.TEST, "a worker died in", options=_WORKER),
    _broken("QEMU is killed", "qemu", Moment.BOOT, "broken: no-sshd", blame="host", machine=True),
    _broken("QEMU is killed", "qemu", Moment.TEST, "broken: no-sshd", blame="host", machine=True),
    _broken("QEMU is stopped", "stop", Moment.BOOT, "broken: no-sshd", blame="host", machine=True),
    _broken("QEMU is stopped", "stop", Moment.TEST, "broken: no-sshd", blame="host", machine=True),
    _broken("a plugin fails", "raise", Moment.BEFORE, "the run did not start", reports=Reports.EARLIER),
    _broken("a plugin fails", "raise", Moment.START, "the run did not start"),
    _broken("a plugin fails", "raise", Moment.TEST, "pytest stopped early (internal_error: RuntimeError"),
    _broken("a plugin fails", "raise", Moment.END, "the end of the run failed: RuntimeError"),
    _broken("a plugin fails", "raise", Moment.LAST, "the end of the run failed: RuntimeError"),
    _broken("a plugin sets exit status 1", "status", Moment.END, "a plugin ended it with status 1"),
    _broken("a test ends pytest with status 1", "exit", Moment.TEST, "pytest stopped early (tests_failed: pytest.exit"),
    _broken("a time limit ends the process", "sleep", Moment.TEST, "did not end within 1 s",
            options=("--timeout=1", "--timeout-method=thread")),
    _broken("the reports are lost", "lose", Moment.TEST, "pytest stopped early (internal_error: FileNotFoundError"),
    _broken("the reports are lost", "lose", Moment.END, "the reports cannot be put in their place"),
    Cell(fault="the reports are lost", key="lose", moment=Moment.LAST, status=6, verdict="broken", reports=Reports.NEW,
         says="the reports cannot be put in their place"),
    _broken("the working directory is lost", "vanish", Moment.TEST, "the end of the run failed: FileNotFoundError"),
    _broken("the disk of the reports is full", "fill", Moment.TEST, "No space left on device", shell=_FULL, small=True,
            root=True),
    _broken("the disk of the reports is full", "fill", Moment.END, "No space left on device", shell=_FULL, small=True,
            root=True),
    _broken("standard output is full", "", Moment.BEFORE, "", shell='exec "$@" >/dev/full'),
    _refused("another run writes to the same reports", "another run writes its reports there", key="lock"),
    _refused("a name that is not UTF-8", "not UTF-8", options=("--next-image", "bad\udcff.raw")),
    _refused("500 MiB of address space", "a process may have 488 MiB of address space here: raise ulimit -v",
             shell='ulimit -v 500000; exec "$@"'),
    _refused("12 descriptors", "Too many open files", shell='ulimit -n 12; exec "$@"'),
    _fine("HOME is not set", 'unset HOME; exec "$@"'),
    _refused("the working directory is read-only", "reports: cannot be written", shell=_READ_ONLY, root=True),
    _refused("TMPDIR does not exist", "TMPDIR /nowhere: cannot be written: No such file",
             shell='TMPDIR=/nowhere exec "$@"'),
    _refused("TMPDIR is full", "TMPDIR full: cannot be written: No space left", shell=_FULL_TMPDIR, root=True),
    _refused("QEMU does not answer", "qemu-system-x86_64 did not end within 30 s", shell=_FAKE.format("exec sleep 600"),
             slow=True),
    _refused("QEMU is too old", "is of version 5.2.0, which is too old",
             shell=_FAKE.format("echo QEMU emulator version 5.2.0")),
    _refused("a conftest.py fails at once", "a plugin or conftest.py failed while pytest started: RuntimeError",
             key="load"),
)


def page() -> str:
    """Returns the text of docs/faults.md."""
    return _PAGE.format(rows="\n".join(map(_row, CELLS)))


def _row(cell: Cell) -> str:
    return (f"| {cell.fault} | {cell.moment} | {cell.status} | {cell.verdict or '–'} | {cell.blame or '–'} | "
            f"{cell.reports} |")  # fmt: skip
