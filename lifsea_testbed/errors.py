"""What can go wrong, and whose fault each is: the type of an exception is the verdict.

    Explained                 what happened, what was expected, the evidence, what to do next
    ├── TestbedError          not the image's fault                       → broken
    │   ├── HostError         this host cannot do what is asked
    │   │   ├── LaunchError   QEMU did not start, or died by itself
    │   │   │   └── EmulatorFailed  by an error of its own
    │   │   └── TimerStarved  a busy host let the guest's timer not tick
    │   ├── ChannelError      the conversation with the guest broke its own rules
    │   └── CallerError       bad input from the user                     → one line, exit status 4
    │       ├── ImageRefused
    │       └── ProfileRefused
    └── GuestFailure          the image under test broke a promise        → failed
        ├── BootFailed        never reached its ready mark
        ├── GuestCrashed      panic, oops, emergency mode, unexpected power-off or reset
        ├── CommandFailed     a command that had to succeed did not
        ├── DiskDamaged       what is on its disk contradicts itself
        └── WaitTimedOut      a condition did not come true within its deadline

    NotJudged                 this host or this image offers no way to tell → not judged
"""

from __future__ import annotations

import enum
from pathlib import Path

from lifsea_testbed.support.redact import redact


class Blame(enum.StrEnum):
    """Whose fault a failure is."""

    PRODUCT = "product"
    HARNESS = "harness"
    HOST = "host"
    CALLER = "caller"


class Explained(Exception):
    """An exception that carries what a person needs at three in the morning."""

    blame: Blame = Blame.HARNESS

    def __init__(self, happened: str, *, expected: str = "", evidence: str = "", hint: str = "") -> None:
        # What the user typed is no guest's text, and would be taken for secrets: "token: required".
        happened, expected, evidence = (text if self.blame is Blame.CALLER else redact(text)
                                        for text in (happened, expected, evidence))  # fmt: skip
        super().__init__(happened)
        self.happened = happened
        self.expected = expected
        self.evidence = evidence
        self.hint = hint
        #: Where the records of the machine are that it happened on, if it is gone already.
        self.records: Path | None = None

    @property
    def one_line(self) -> str:
        """What happened and what to do about it, on one line."""
        return f"{self.happened} (hint: {self.hint})" if self.hint else self.happened

    def __str__(self) -> str:
        """Every part that is known, one below the other."""
        parts = [self.happened]
        parts += [f"expected: {self.expected}"] if self.expected else []
        parts += [f"hint: {self.hint}"] if self.hint else []
        parts += [f"evidence:\n{self.evidence.rstrip()}"] if self.evidence else []
        return "\n".join(parts)


class TestbedError(Explained):
    """The test bed or its host failed; nothing is known about the image."""

    __test__ = False  # pytest would otherwise take the name for a test class


class HostError(TestbedError):
    """This host lacks something that the run needs."""

    blame = Blame.HOST


class LaunchError(HostError):
    """QEMU did not start, or ended without being asked to."""


class EmulatorFailed(LaunchError):
    """QEMU ended by an error of its own: a failed assertion, a bad access to memory."""


class TimerStarved(HostError):
    """The guest's kernel waits for a timer that a busy host, or its emulator, did not let tick; another time it may."""


class ChannelError(TestbedError):
    """The guest's end of the command channel said something that is not in the protocol."""


class CallerError(TestbedError):
    """The user asked for something that cannot be done; nothing was started."""

    blame = Blame.CALLER


class ImageRefused(CallerError):
    """The file given is not an image that the test bed will open."""


class ProfileRefused(CallerError):
    """The profile or instance type asked for does not exist or does not hold together."""


class GuestFailure(Explained, AssertionError):
    """The image under test did not keep a promise."""

    blame = Blame.PRODUCT


class BootFailed(GuestFailure):
    """The machine did not reach its ready mark."""


class GuestCrashed(GuestFailure):
    """The guest's kernel or init gave up, or the machine went down unasked."""


class CommandFailed(GuestFailure):
    """A command in the guest ended with a status that it must not have."""


class DiskDamaged(GuestFailure):
    """A table on the image's disk contradicts itself, or refers to something that is not there."""


class WaitTimedOut(GuestFailure):
    """A condition in the guest did not come true before its deadline."""


class NotJudged(Exception):
    """This cannot be told here; the reason is the message, and a measured figure may stand beside it."""
