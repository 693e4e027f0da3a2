"""Sharing: one machine for all tests that promise to change nothing on it, and the check that they keep to that."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from lifsea_testbed.errors import TestbedError
from lifsea_testbed.guest import changes
from lifsea_testbed.guest.changes import Look
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.machine.pool import Restorer, await_quiet, comes_up
from lifsea_testbed.profiles.profile import Profile, Road

#: What the census of changes leaves out: devices come and go, and hold nothing.
_UNWATCHED = {"/dev"}
_SHOWN = 20
_NAME = "shared-machine"


class NotLeftAsFound(TestbedError):
    """A test that shares its machine changed it: the test is at fault, not the image."""


class SharedMachine:
    """One machine, lent to one test after the other; a test that changed it costs the next one a new machine."""

    def __init__(self, restorer: Restorer, profile: Callable[[], Profile]) -> None:
        self._restorer = restorer
        self._profile = profile
        self._stack = contextlib.ExitStack()
        self._machine: Machine | None = None
        self._seen: tuple[Look, int] | None = None
        self._is_up = False

    @contextlib.contextmanager
    def lent(self) -> Iterator[Machine]:
        """The machine, for one test.

        Raises:
            Explained: the image did not come up.
            NotLeftAsFound: the test changed it; the machine is given up.
        """
        machine = self.machine()
        if self._seen is None:
            self._is_up = self._settle(machine)
            self._seen = _look(machine, self._profile())
        yield machine
        self._check()

    def machine(self) -> Machine:
        """Returns the machine; the first one, and one after a change, is a new one.

        Raises:
            Explained: the image did not come up.
        """
        if self._machine is None or self._machine.boot.liveness.ended:
            self.close()
            self._machine = self._stack.enter_context(self._restorer.machine(_NAME))
        return self._machine

    def _settle(self, machine: Machine) -> bool:
        """Returns whether the machine came up, once it rests: one of a template does so already."""
        is_up = comes_up(machine)
        if self._restorer.why_cold:
            await_quiet(machine)
        return is_up

    def close(self) -> None:
        """Gives the machine up."""
        self._machine = self._seen = None
        self._stack.close()

    def _check(self) -> None:
        """Makes sure that the machine is still what it was when it was looked at last.

        A boot that does not come to its end changes the machine as well, and no test is to blame for that.
        """
        if self._machine is None or self._seen is None or self._machine.boot.liveness.ended:
            return
        profile = self._profile()
        (before, written), (after, now) = self._seen, _look(self._machine, profile)
        allowed = profile.sharing
        found = changes.differences(before, after, files=allowed.files, processes=allowed.processes)
        if (mebibytes := (now - written) / (1 << 20)) > allowed.disk:
            found.append(f"{mebibytes:.0f} MiB were written to the disk")
        self._seen = (after, now)
        if found:
            self.close()
        if found and self._is_up:
            raise NotLeftAsFound(
                "this test changed the machine that it shares with others", evidence="\n".join(found[:_SHOWN]),
                expected="nothing but what [sharing] of the profile allows",
                hint="take @pytest.mark.shares_machine away, and the test gets a machine of its own",
            )  # fmt: skip


def _look(machine: Machine, profile: Profile) -> tuple[Look, int]:
    """What the machine is like, and the bytes that its disk took in."""
    if machine.road is Road.NONE:
        nothing = Look(changed=(), processes=frozenset(), mounted=frozenset())
        return nothing, machine.boot.written
    return changes.look(machine, sorted({*profile.paths.writable} - _UNWATCHED)), machine.boot.written
