"""The machine pool: machines for tests, shared, restored from a snapshot, or booted cold.

The snapshot is made when the first machine is requested, and kept in the user's cache for later runs. Where machines
cannot be restored, they are booted, and `why_cold` says why.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from lifsea_testbed.errors import BootFailed, ChannelError, HostError, LaunchError, TestbedError
from lifsea_testbed.guest import changes
from lifsea_testbed.guest.changes import Look
from lifsea_testbed.machine import snapshot as snapshots
from lifsea_testbed.machine import snapshot_cache
from lifsea_testbed.machine.context import AUTO
from lifsea_testbed.machine.factory import InitialState, MachineFactory, MachineSpec
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.machine.snapshot import Snapshot
from lifsea_testbed.machine.snapshot_cache import SnapshotCache
from lifsea_testbed.profiles.profile import AccessMethod
from lifsea_testbed.qemu.storage import Layers, MemoryFile, copy_sparse, create_memory_file
from lifsea_testbed.support.deadline import Deadline

#: A machine is quiet when QEMU uses no more than this share of one processor in so many looks that follow each other,
#: so far apart (seconds); one that never is gets saved after so long (seconds).
_QUIET, _LOOKS, _BETWEEN, _RESTLESS = 0.25, 3, 0.25, 30.0
#: Directories that are not compared on the shared machine: devices come and go, and hold nothing.
_UNWATCHED = {"/dev"}
#: How many changes of the shared machine an error lists.
_SHOWN = 20


class CannotRestore(TestbedError):
    """Machines of this image cannot be restored from a snapshot; they are booted instead."""


class SharedMachineModified(TestbedError):
    """A test that shares its machine changed it: the test is at fault, not the image."""


class MachinePool:
    """Lends the machines of one factory; with `keeps`, each that is not shared can be saved at any time."""

    def __init__(self, factory: MachineFactory, cache: SnapshotCache, *, cold: bool = False,
                 keeps: bool = False) -> None:
        self.why_cold = _why_cold(factory, cold)
        self.factory = factory
        self._cache = cache
        self._keeps = keeps
        self._key: dict[str, str] = {}
        self._snapshot: Snapshot | None = None
        self._shared = SharedMachine(self)

    @contextlib.contextmanager
    def shared(self) -> Iterator[Machine]:
        """The machine that tests share which change nothing on it; for one test at a time.

        Raises:
            Explained: the image did not come up.
            SharedMachineModified: the test changed it; the next test gets a new one.
        """
        with self._shared.lent() as machine:
            yield machine

    @contextlib.contextmanager
    def restored(self, name: str) -> Iterator[Machine]:
        """A clean machine in the state of the snapshot, its shell open; booted where it cannot be restored.

        Raises:
            TestbedError: the snapshot does not restore, and neither does the one that was made in its place.
            Explained: the image did not come up.
        """
        with contextlib.ExitStack() as stack:
            machine = self._restored(stack, name)
            yield machine or stack.enter_context(self.cold(name))

    @contextlib.contextmanager
    def cold(self, name: str) -> Iterator[Machine]:
        """A machine that was booted cold.

        Raises:
            Explained: the image did not come up.
        """
        with contextlib.ExitStack() as stack:
            memory = self._own_memory(stack) if self._keeps else None
            yield stack.enter_context(self.factory.create(MachineSpec(name=name, memory=memory)))

    def identify(self) -> None:
        """Makes the factory's profile final, if need be by powering on the shared machine.

        Raises:
            Explained: the image did not come up.
        """
        if not self.factory.is_identified:
            self._shared.machine()

    def keep(self, machine: Machine, directory: Path) -> None:
        """Stops a machine for good and saves it as it stands.

        Raises:
            TestbedError: its memory is not in a file of its own, or QEMU is gone.
        """
        context = self.factory.context
        profile = self.factory.profile.name if context.profile == AUTO else context.profile
        snapshots.keep(machine, directory, key=self.key(), profile=profile)

    def snapshot(self) -> Snapshot | None:
        """Returns the snapshot, made if need be, or nothing if machines have to be booted.

        Raises:
            Explained: the image did not come up.
        """
        if self._snapshot is None and self.factory.data_disk:
            self.why_cold = self.why_cold or "the data disk would have to be saved as well"
        if self.why_cold:
            return None
        if self._snapshot is None:
            try:
                self._snapshot = self._cache.get(self.key(), self._make, self._announce_wait)
            except CannotRestore as error:
                self.why_cold = error.happened
                self.factory.announce(f"not restored: {self.why_cold}")
        return self._snapshot

    def key(self) -> dict[str, str]:
        """Returns what tells the machines of this factory from others, as it was at the first call."""
        self._key = self._key or snapshot_cache.key(self.factory)
        return self._key

    def close_shared(self) -> None:
        """Ends the shared machine, if there is one."""
        self._shared.close()

    def close(self) -> None:
        """Ends the shared machine and lets other processes remove the snapshot."""
        self.close_shared()
        self._cache.__exit__()

    def _restored(self, stack: contextlib.ExitStack, name: str) -> Machine | None:
        """Tries twice: a snapshot that does not restore is discarded and made anew, once."""
        failures: list[Exception] = []
        while len(failures) < 2:
            snapshot = self.snapshot()
            if snapshot is None:
                return None
            try:
                return self._resume(stack, snapshot, name)
            except (TestbedError, OSError) as error:
                if isinstance(error, HostError) and not isinstance(error, LaunchError):
                    raise  # the host has no room for it, whatever is in the snapshot
                failures.append(error)
                self.factory.announce(f"snapshot {snapshot.directory.name} does not restore and is discarded: {error}")
                self._cache.discard(snapshot)
                self._snapshot = None
        raise TestbedError("a snapshot that was just made does not restore", evidence="\n".join(map(str, failures)),
                           expected="a machine resumes where it was saved", hint="use --cold")  # fmt: skip

    def _resume(self, stack: contextlib.ExitStack, snapshot: Snapshot, name: str) -> Machine:
        with contextlib.ExitStack() as inner:
            began = time.monotonic()
            memory = self._own_memory(inner, snapshot) if self._keeps else snapshot.memory
            layers = Layers(below=snapshot.layers.below, overlay=self._scratch_file(inner, "overlay.qcow2"))
            spec = MachineSpec(name=name, state=InitialState.OFF, layers=layers, instance=snapshot.facts.instance,
                               memory=memory)  # fmt: skip
            machine = inner.enter_context(self.factory.create(spec))
            snapshots.resume(snapshot, machine)
            machine.restored_in = time.monotonic() - began
            self.factory.identify(machine)
            stack.enter_context(inner.pop_all())
        return machine

    def _own_memory(self, stack: contextlib.ExitStack, snapshot: Snapshot | None = None) -> MemoryFile:
        """A file of the machine's own for its memory, so that it can be saved."""
        path = self._scratch_file(stack, "memory")
        if snapshot is None:
            create_memory_file(path, size=self.factory.context.memory)
        else:
            copy_sparse(snapshot.memory.path, path)
        self.factory.accelerator.confinement.admit(path)
        return MemoryFile(path=path, state=snapshot.memory.state if snapshot else None)

    def _scratch_file(self, stack: contextlib.ExitStack, name: str) -> Path:
        path = self.factory.scratch_path(name)
        stack.callback(path.unlink, missing_ok=True)
        return path

    def _make(self, directory: Path) -> None:
        """Boots a machine, waits until it is up and quiet, and saves it."""
        factory, began = self.factory, time.monotonic()
        factory.announce("making a snapshot, which later machines are restored from")
        with contextlib.ExitStack() as stack:
            spec = MachineSpec(name="template-machine", memory=self._own_memory(stack))
            machine = stack.enter_context(factory.create(spec))
            if machine.access_method == AccessMethod.NONE:
                raise CannotRestore("the image offers no shell to set a restored machine's clock by")
            comes_up(machine)  # a test that needs it to be ready finds out if it is not
            ready = time.monotonic()
            machine.run("sync")
            await_quiet(machine)
            quiet = time.monotonic() - ready
            machine.save_records()
            try:
                ahead, waiting = snapshots.clock_ahead(machine), snapshots.wait(machine)
            except ChannelError as error:
                raise CannotRestore(error.happened, evidence=error.evidence) from error
            snapshots.save(machine, directory, key=self.key(), profile=factory.profile.name, ahead=ahead,
                           took=time.monotonic() - began, quiet=quiet, waiting=waiting)  # fmt: skip
        factory.announce(f"snapshot made in {time.monotonic() - began:.1f} s")

    def _announce_wait(self) -> None:
        self.factory.announce("another process makes the snapshot; waiting for it")


class SharedMachine:
    """One machine, lent to one test after the other; a test that changed it costs the next one a new machine."""

    def __init__(self, pool: MachinePool) -> None:
        self._pool = pool
        self._stack = contextlib.ExitStack()
        self._machine: Machine | None = None
        self._seen: tuple[Look, int] | None = None
        self._is_up = False

    @contextlib.contextmanager
    def lent(self) -> Iterator[Machine]:
        """The machine, for one test, and compared with what it was when the test is over.

        Raises:
            Explained: the image did not come up.
            SharedMachineModified: the test changed it.
        """
        machine = self.machine()
        if self._seen is None:
            self._is_up = self._settle(machine)
            self._seen = self._look(machine)
        yield machine
        self._check()

    def machine(self) -> Machine:
        """Returns the machine; the first one, and one after a change, is a new one.

        Raises:
            Explained: the image did not come up.
        """
        if self._machine is None or self._machine.boot.liveness.ended:
            self.close()
            self._machine = self._stack.enter_context(self._pool.restored("shared-machine"))
        return self._machine

    def close(self) -> None:
        """Ends the machine."""
        self._machine = self._seen = None
        self._stack.close()

    def _settle(self, machine: Machine) -> bool:
        """Returns whether the machine came up, once it is quiet: a restored one is already."""
        is_up = comes_up(machine)
        if self._pool.why_cold:
            await_quiet(machine)
        return is_up

    def _check(self) -> None:
        """Makes sure that the machine is still what it was at the last look.

        A boot that does not come to its end changes the machine as well, and no test is to blame for that.
        """
        if self._machine is None or self._seen is None or self._machine.boot.liveness.ended:
            return
        (before, written), (after, now) = self._seen, self._look(self._machine)
        allowed = self._pool.factory.profile.sharing
        found = changes.differences(before, after, files=allowed.files, processes=allowed.processes)
        if (mebibytes := (now - written) / (1 << 20)) > allowed.disk:
            found.append(f"{mebibytes:.0f} MiB were written to the disk")
        self._seen = (after, now)
        if found:
            self.close()
        if found and self._is_up:
            raise SharedMachineModified(
                "this test changed the machine that it shares with others", evidence="\n".join(found[:_SHOWN]),
                expected="nothing but what [sharing] of the profile allows",
                hint="without @pytest.mark.shares_machine the test gets a machine of its own",
            )  # fmt: skip

    def _look(self, machine: Machine) -> tuple[Look, int]:
        """The state of the machine, and the bytes that were written to its disk."""
        if machine.access_method == AccessMethod.NONE:
            nothing = Look(changed=(), processes=frozenset(), mounted=frozenset())
            return nothing, machine.boot.written
        writable = {*self._pool.factory.profile.paths.writable} - _UNWATCHED
        return changes.look(machine, sorted(writable)), machine.boot.written


def _why_cold(factory: MachineFactory, cold: bool) -> str:
    if cold:
        return "--cold was given"
    if not factory.emulator.can_restore:
        return f"QEMU {factory.emulator.version} cannot; 8.2 and later can"
    if factory.profile.access.has_no_shell:
        return "the profile offers no shell to set a restored machine's clock by"
    return ""


def comes_up(machine: Machine) -> bool:
    """Waits until every unit is up, and returns whether the boot came to its end."""
    try:
        machine.wait_until_ready()
    except BootFailed:
        return False
    return True


def await_quiet(machine: Machine) -> None:
    """Returns when nothing much goes on in the machine any more, or when that takes too long."""
    deadline, use, quiet = Deadline.after(_RESTLESS), machine.boot.process.processor_time, 0
    while quiet < _LOOKS and not deadline.expired:
        before, since = use(), time.monotonic()
        machine.boot.liveness.pause(_BETWEEN, deadline)
        quiet = quiet + 1 if use() - before <= _QUIET * (time.monotonic() - since) else 0
