"""A machine that does not come up: what its screen shows, and the early end of one whose guest stands still.

A guest stands still that has loaded no kernel, prints nothing, and leaves its screen as it is: so do a firmware that
found nothing to boot, a boot loader that waits for a key, code that hangs.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from lifsea_testbed.ecs.metadata import MetadataRequest
from lifsea_testbed.errors import BootFailed, Explained, TestbedError
from lifsea_testbed.machine.boot import Boot
from lifsea_testbed.qemu import text_screen
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.sanitize import printable

#: For how long a guest may stand still, and how often it is looked at (seconds on the host).
PATIENCE, EVERY = 30.0, 5.0
#: How many times as long a guest is waited for that has not read its disk at all: its firmware is still at work, as
#: that of UEFI is for many seconds under emulation.
_BEFORE_THE_DISK = 4
#: How long QEMU may take to show the memory of the screen (seconds).
_SCREEN = 5.0
#: A guest that has read more than this (bytes) has loaded a kernel, or much of one: no kernel with the drivers that an
#: ECS instance needs is smaller (the compressed one of the reference image has 9 MiB).
_LESS_THAN_A_KERNEL = 1 << 20


@dataclass(frozen=True, kw_only=True)
class _Sight:
    """What was seen of a guest: the bytes that it has read from its disk and written to it, and the screen."""

    read: int
    written: int
    screen: str


def failed(boot: Boot, missing: str, expected: str, evidence: str = "") -> BootFailed:
    """Returns the error of a boot in which something is `missing`, with the text on the screen."""
    screen = screen_text(boot)
    shown = f"screen:\n{screen}\n" if screen else ""
    return BootFailed(
        f"{missing} within {time.monotonic() - boot.power_on:.0f} s of power-on{text_screen.summary(screen)}",
        expected=expected, evidence=f"{evidence}{shown}{boot.transcript.tail()}",
        hint="read the transcript; an image without a shell needs a profile with access.methods = ['none']",
    )  # fmt: skip


def no_shell(boot: Boot, methods: Iterable[str], requests: Iterable[MetadataRequest]) -> BootFailed:
    """Returns the error of a boot in which no access method opened a root shell."""
    paths = ", ".join(dict.fromkeys(printable(request.path) for request in requests)) or "none"
    return failed(boot, "no root shell", f"a root shell by {', '.join(methods)}",
                  f"requests to the metadata service: {paths}\n")


def screen_text(boot: Boot) -> str:
    """Returns the text on the screen of a machine; nothing if there is none, or QEMU does not answer."""
    try:
        return text_screen.read(boot.monitor, Deadline.after(_SCREEN))
    except TestbedError:
        return ""


@contextlib.contextmanager
def watch(boot: Boot, is_heard: Callable[[], bool]) -> Iterator[None]:
    """Ends the machine, for all who wait for it, as soon as its guest has stood still for PATIENCE, within the context.

    `is_heard` returns whether the guest was heard of in another way. A guest for whose silence the host is at fault is
    waited for.
    """
    watcher = _Watcher(boot, is_heard)
    try:
        yield
    finally:
        watcher.close()


class _Watcher:
    """Looks at a guest every few seconds, in a thread of its own, until it is heard of or `close` is called."""

    def __init__(self, boot: Boot, is_heard: Callable[[], bool]) -> None:
        self._boot, self._is_heard = boot, is_heard
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="standstill", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops looking."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        with contextlib.suppress(TestbedError, Explained):  # QEMU ended or does not answer: others tell that
            self._look()

    def _look(self) -> None:
        last, since = None, time.monotonic()
        while not self._closed.wait(EVERY) and not self._is_alive():
            sight = _sight(self._boot)
            if sight.read > _LESS_THAN_A_KERNEL:
                return
            if sight != last or self._boot.diagnose_silence(PATIENCE):
                last, since = sight, time.monotonic()
            elif time.monotonic() - since >= PATIENCE * (1 if sight.read else _BEFORE_THE_DISK):
                self._boot.liveness.end(functools.partial(_error, sight))
                return

    def _is_alive(self) -> bool:
        """Whether the guest has printed something, was heard of otherwise, or has ended."""
        printed = any(not console.is_empty for console in self._boot.consoles.values())
        return printed or self._is_heard() or self._boot.liveness.ended


def _sight(boot: Boot) -> _Sight:
    activity = boot.disk_activity
    return _Sight(read=activity.read, written=activity.written, screen=screen_text(boot))


def _error(sight: _Sight) -> BootFailed:
    return BootFailed(
        f"the guest stands still: it read {sight.read} bytes from its disk, and then nothing, and printed nothing, for "
        f"{PATIENCE:.0f} s{text_screen.summary(sight.screen)}",
        expected="a boot loader that loads a kernel from the disk", evidence=sight.screen,
        hint="look at the picture of the screen; an image boots by the firmware that it is made for, without a key",
    )  # fmt: skip
