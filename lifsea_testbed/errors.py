"""The error tree: the type of an exception decides the verdict.

    Explained                 what happened, what was expected, the evidence, what to do next
    ├── TestbedError          not the image's fault                       → broken
    │   ├── HostError         this host cannot do what the run needs
    │   │   ├── LaunchError   QEMU did not start, or ended unexpectedly
    │   │   │   └── EmulatorFailed  by a fault of its own
    │   │   └── MachineStarved  the host withheld the processor from the machine
    │   │       └── TimerStarved  so that the guest's timer did not tick
    │   │           └── TimerLost  or the emulator lost it
    │   └── CallerError       bad input from the user                     → one line, exit status 4
    │       ├── ImageRefused
    │       └── ProfileRefused
    └── GuestFailure          the image under test broke a promise        → failed
        ├── BootFailed        never became ready
        ├── GuestCrashed      panic, oops, emergency mode, unexpected power-off or reset
        ├── ChannelError      its end of the command channel exited or broke the protocol
        ├── CommandFailed     a command that had to succeed did not
        ├── AnswerUnreadable  the guest answered a question with something that cannot be parsed
        ├── AnswersDiffer     the guest's answer is not that of its disk, or of its kernel
        ├── DiskDamaged       the data structures on its disk are inconsistent
        └── WaitTimedOut      a condition did not become true before its deadline

    NotJudged                 host, image, profile or command line offers no way to judge → not judged
"""

from __future__ import annotations

import enum
from pathlib import Path

from lifsea_testbed.support.redact import redact
from lifsea_testbed.support.sanitize import printable, shortened

#: The longest part of an error (bytes), which loses its middle, and how much of a text is read for it (characters).
_LONGEST, _LONGEST_TEXT = 64 << 10, 1 << 20


class Blame(enum.StrEnum):
    """Whose fault a failure is."""

    PRODUCT = "product"
    HARNESS = "harness"
    HOST = "host"
    CALLER = "caller"


class Explained(Exception):
    """An exception with what happened, what was expected, the evidence, and a hint what to do next, all printable."""

    blame: Blame = Blame.HARNESS

    def __init__(self, happened: str, *, expected: str = "", evidence: str = "", hint: str = "") -> None:
        happened, expected, evidence, hint = map(self._shown, (happened, expected, evidence, hint))
        super().__init__(happened)
        self.happened = happened
        self.expected = expected
        self.evidence = evidence
        self.hint = hint
        #: The directory with the records of the machine on which it happened, if that is closed already.
        self.records: Path | None = None

    def _shown(self, text: str) -> str:
        """A text that may come from a guest, printable; the user's own ("token: required") has no secrets."""
        text = printable(text[:_LONGEST_TEXT])
        return shortened(text if self.blame is Blame.CALLER else redact(text), _LONGEST)

    @property
    def one_line(self) -> str:
        """What happened and the hint, on one line."""
        return f"{self.happened} (hint: {self.hint})" if self.hint else self.happened

    def __str__(self) -> str:
        """All parts that are not empty, one below the other."""
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
    """QEMU did not start, or ended unexpectedly."""


class EmulatorFailed(LaunchError):
    """QEMU ended by a fault of its own: a failed assertion, an invalid memory access."""


class MachineStarved(HostError):
    """The host withheld the processor from the machine until a wait for it, or its kernel, gave up; try again."""


class TimerStarved(MachineStarved):
    """The guest's kernel waited for a timer that did not tick on a busy host or emulator; a retry may succeed."""


class TimerLost(TimerStarved):
    """The emulator lost the guest's timer: no processor of the guest will ever run again; a retry may succeed."""


class CallerError(TestbedError):
    """The user's input cannot be used; nothing was started."""

    blame = Blame.CALLER


class ImageRefused(CallerError):
    """The file given is not an image that the test bed will open."""


class ProfileRefused(CallerError):
    """The requested profile or instance type does not exist or is inconsistent."""


class GuestFailure(Explained, AssertionError):
    """The image under test did not keep a promise."""

    blame = Blame.PRODUCT
    #: Whether the image has not come up in this run, for that reason: nothing else of it can be judged.
    kept_image_down = False


class BootFailed(GuestFailure):
    """The machine did not become ready."""


class GuestCrashed(GuestFailure):
    """The guest's kernel or init crashed, or the machine went down unexpectedly."""


class ChannelError(GuestFailure):
    """The guest's end of the command channel exited or broke the protocol."""


class CommandFailed(GuestFailure):
    """A command in the guest ended with a status that it must not have."""


class AnswerUnreadable(GuestFailure):
    """The guest answered a question with what cannot be parsed; the evidence is the command and its output."""


class AnswersDiffer(GuestFailure):
    """A program of the guest answers otherwise than its disk, or its kernel: it does not tell what is there."""


class DiskDamaged(GuestFailure):
    """A data structure on the image's disk is inconsistent, or refers to something that does not exist."""


class WaitTimedOut(GuestFailure):
    """A condition in the guest did not become true before its deadline."""


class Reason(enum.StrEnum):
    """What keeps a claim from being judged."""

    #: This host, or the emulation on it, cannot show it.
    HOST = "host"
    #: The image offers no way to see it.
    IMAGE = "image"
    #: The profile lacks a value that the judgement needs.
    PROFILE = "profile"
    #: The command line gave no input for it.
    OPTION = "option"


class NotJudged(Exception):
    """This cannot be judged in this run.

    Args:
        why: one line; may include a measured value.
        reason: what keeps it from being judged; the verdict counts those by it.
    """

    def __init__(self, why: str, reason: Reason) -> None:
        super().__init__(why)
        self.reason = reason
