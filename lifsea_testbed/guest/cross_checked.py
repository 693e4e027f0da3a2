"""A guest whose answers are compared with its disk: a program of the image that lies does not change what lies there.

What a disk can answer for is asked in the guest, by its own programs, and read from the disk, by the test bed's
readers. A disk that shows what the guest kept silent about, or answers otherwise, fails the claim.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from lifsea_testbed.errors import AnswersDiffer, NotJudged
from lifsea_testbed.guest.accounts import Accounts
from lifsea_testbed.guest.files import Files
from lifsea_testbed.guest.guest import Guest
from lifsea_testbed.guest.kernel import Kernel
from lifsea_testbed.guest.ostree import Deployments
from lifsea_testbed.guest.packages import Packages
from lifsea_testbed.guest.system import System
from lifsea_testbed.guest.units import Units

#: How many findings an error shows of each answer.
_SHOWN = 8


class Road(enum.StrEnum):
    """A way to an answer: the guest's own programs, or its disk as the test bed reads it."""

    GUEST = "guest"
    DISK = "disk"


class Agreement(enum.Enum):
    """What the two answers to a question have in common if nobody lies."""

    #: They are the same.
    SAME = enum.auto()
    #: The guest names all that the disk shows; file systems in memory may hold more.
    DISK_IN_GUEST = enum.auto()


#: The questions that are asked of both.
QUESTIONS = {
    "accounts.with_password": Agreement.DISK_IN_GUEST, "accounts.without_password": Agreement.DISK_IN_GUEST,
    "deployments.changed_files": Agreement.DISK_IN_GUEST,
    "files.executables_holding": Agreement.DISK_IN_GUEST, "files.executables_named": Agreement.DISK_IN_GUEST,
    "files.holding": Agreement.DISK_IN_GUEST, "files.link_target": Agreement.SAME,
    "files.matching": Agreement.DISK_IN_GUEST, "files.programs_holding": Agreement.DISK_IN_GUEST,
    "files.setuid": Agreement.DISK_IN_GUEST, "kernel.initramfs_signs": Agreement.DISK_IN_GUEST,
    "packages.installed": Agreement.SAME, "packages.named": Agreement.SAME,
    "system.has_posix_shell": Agreement.SAME, "system.udev_rules": Agreement.DISK_IN_GUEST,
    "units.named": Agreement.DISK_IN_GUEST,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A question that was answered, and by which roads; `why` is the reason if it was not by both."""

    question: str
    roads: tuple[Road, ...]
    why: str = ""


class CrossCheckedGuest:
    """The subjects of a guest that its disk can answer for as well; each answer is compared with that of the disk.

    A question that one of the two cannot answer is answered by the other; `note` is called with each answer's roads.
    Every question raises AnswersDiffer where the two answers do not agree. Other questions are those of the guest.
    Without `disk`, the guest is one that reads its disk itself, for want of a shell.
    """

    def __init__(self, asked: Guest, disk: Guest | None, note: Callable[[Answered], object]) -> None:
        self._asked, self._disk, self._note = asked, disk, note

    @property
    def files(self) -> Files:
        """The file system."""
        return cast(Files, self._compared("files"))

    @property
    def packages(self) -> Packages:
        """The installed packages."""
        return cast(Packages, self._compared("packages"))

    @property
    def accounts(self) -> Accounts:
        """The accounts."""
        return cast(Accounts, self._compared("accounts"))

    @property
    def deployments(self) -> Deployments:
        """The ostree deployments."""
        return cast(Deployments, self._compared("deployments"))

    @property
    def kernel(self) -> Kernel:
        """The kernel."""
        return cast(Kernel, self._compared("kernel"))

    @property
    def system(self) -> System:
        """The system as a whole."""
        return cast(System, self._compared("system"))

    @property
    def units(self) -> Units:
        """All units of systemd."""
        return cast(Units, self._compared("units"))

    def _compared(self, subject: str) -> _Compared:
        disk = None if self._disk is None else getattr(self._disk, subject)
        return _Compared(subject, getattr(self._asked, subject), disk, self._note)


class _Compared:
    """A subject whose answers are compared with those of the disk."""

    def __init__(self, subject: str, asked: object, disk: object | None,
                 note: Callable[[Answered], object]) -> None:
        self._subject, self._asked, self._disk, self._note = subject, asked, disk, note

    def __getattr__(self, name: str) -> Any:
        question = f"{self._subject}.{name}"
        if question not in QUESTIONS:
            return getattr(self._asked, name)
        return functools.partial(self._read if self._disk is None else self._both, question, name)

    def _read(self, question: str, name: str, *arguments: object) -> object:
        answer = getattr(self._asked, name)(*arguments)
        self._note(Answered(question=question, roads=(Road.DISK,)))
        return answer

    def _both(self, question: str, name: str, *arguments: object) -> object:
        try:
            read = getattr(self._disk, name)(*arguments)
        except NotJudged as error:
            answer = getattr(self._asked, name)(*arguments)
            self._note(Answered(question=question, roads=(Road.GUEST,), why=str(error)))
            return answer
        try:
            asked = getattr(self._asked, name)(*arguments)
        except NotJudged as error:
            self._note(Answered(question=question, roads=(Road.DISK,), why=str(error)))
            return read
        self._note(Answered(question=question, roads=(Road.GUEST, Road.DISK)))
        require_agreement(question, asked, read)
        return asked


def require_agreement(question: str, asked: object, read: object) -> None:
    """Makes sure that the two answers to one of QUESTIONS agree.

    Raises:
        AnswersDiffer: they do not.
    """
    if asked != read if QUESTIONS[question] is Agreement.SAME else _only_in(read, asked):
        raise AnswersDiffer(
            f"guest and disk disagree on {question}: {_difference(asked, read)}",
            expected="a guest whose programs name all that is on its disk",
            evidence=f"asked in the guest: {_text(asked)}\nread from its disk: {_text(read)}",
            hint="a program of the image hides it: docs/security.md, A guest that lies")


def _only_in(one: object, other: object) -> list[object]:
    """What the first list has and the other does not."""
    there = set(cast(list[object], other))
    return [each for each in cast(list[object], one) if each not in there]


def _difference(asked: object, read: object) -> str:
    if not isinstance(asked, list) or not isinstance(read, list):
        return f"the guest answers {_text(asked)}, its disk {_text(read)}"
    alone = {"disk": _only_in(read, asked), "guest": _only_in(asked, read)}
    return ", ".join(f"the {name} alone has {_text(found)}" for name, found in alone.items() if found)


def _text(answer: object) -> str:
    if not isinstance(answer, list):
        return str(answer)
    more = f" and {len(answer) - _SHOWN} more" if len(answer) > _SHOWN else ""
    return f"[{', '.join(map(str, answer[:_SHOWN]))}{more}]"
