"""The machine pool: machines for tests, shared, restored from a snapshot, or booted cold.

The snapshot is made when the first machine is requested, and stored in the user's cache for later runs. Where machines
cannot be restored, they are booted, and `why_cold` is the reason.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from lifsea_testbed.errors import BootFailed, ChannelError, HostError, LaunchError, TestbedError
from lifsea_testbed.guest import changes
from lifsea_testbed.guest.changes import SystemState
from lifsea_testbed.machine import snapshot as snapshots
from lifsea_testbed.machine import snapshot_cache
from lifsea_testbed.machine.factory import InitialState, MachineFactory, MachineSpec
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.machine.snapshot import Snapshot
from lifsea_testbed.machine.snapshot_cache import SnapshotCache
from lifsea_testbed.profiles.profile import AccessMethod
from lifsea_testbed.qemu.storage import MemoryFile, beside, copy_sparse, create_memory_file
from lifsea_testbed.support.deadline import Deadline

#: A machine is quiet when QEMU uses at most this share of one processor in so many consecutive intervals of that length
#: (seconds). A machine that does not become quiet is saved after the time limit (seconds).
_QUIET_SHARE, _QUIET_INTERVALS, _INTERVAL, _QUIET_LIMIT = 0.25, 3, 0.25, 30.0
#: Directories that are not compared on the shared machine: device nodes appear and vanish, and hold no data.
_UNWATCHED = {"/dev"}
#: The number of changes of the shared machine that an error lists.
_SHOWN = 20


class CannotRestore(TestbedError):
    """Machines of this image cannot be restored from a snapshot; they are booted instead."""


class SharedMachineModified(TestbedError):
    """A test that shares its machine changed it: the test is at fault, not the image."""


class MachinePool:
    """Provides machines from one factory; with `keeps`, each that is not shared can be saved at any time."""

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
        """The machine that tests share if they do not change it; for one test at a time.

        Raises:
            Explained: the image did not come up.
            SharedMachineModified: the test changed it; the next test gets a new one.
        """
        with self._shared.use() as machine:
            yield machine

    @contextlib.contextmanager
    def restored(self, name: str) -> Iterator[Machine]:
        """A clean machine in the state of the snapshot, its shell open; booted where it cannot be restored.

        Raises:
            TestbedError: the snapshot does not restore, nor does the one that was made to replace it.
            Explained: the image did not come up.
        """
        with contextlib.ExitStack() as stack:
            machine = self._restored(stack, name)
            yield machine or stack.enter_context(self.cold(name))

    @contextlib.contextmanager
    def cold(self, name: str) -> Iterator[Machine]:
        """A machine that is booted cold.

        Raises:
            Explained: the image did not come up.
        """
        with contextlib.ExitStack() as stack:
            memory = self._create_memory(stack) if self._keeps else None
            yield stack.enter_context(self.factory.create(MachineSpec(name=name, memory=memory)))

    def keep(self, machine: Machine, directory: Path) -> None:
        """Stops a machine for good and saves it in that directory.

        Raises:
            TestbedError: its memory is not in a file of its own, or QEMU is gone.
        """
        snapshots.keep(machine, directory, key=self.key(), profile=self.factory.context.profile)

    def snapshot(self) -> Snapshot | None:
        """Returns the snapshot, which is made if there is none, or None where machines are booted instead.

        Raises:
            Explained: the image did not come up.
        """
        if self._snapshot is None and self.factory.data_disk:
            self.why_cold = self.why_cold or "a snapshot does not include the data disk"
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
        """Returns the facts that distinguish machines of this factory from others, as of the first call."""
        self._key = self._key or snapshot_cache.key(self.factory)
        return self._key

    def close_shared(self) -> None:
        """Powers off and removes the shared machine, if there is one."""
        self._shared.close()

    def close(self) -> None:
        """Removes the shared machine, and allows other processes to remove the snapshot."""
        self.close_shared()
        self._cache.__exit__()

    def _restored(self, stack: contextlib.ExitStack, name: str) -> Machine | None:
        """Restores a machine; a snapshot that does not restore is discarded and made again, once; None after that."""
        failures: list[Exception] = []
        while len(failures) < 2:
            snapshot = self.snapshot()
            if snapshot is None:
                return None
            try:
                return self._resume(stack, snapshot, name)
            except (TestbedError, OSError) as error:
                if isinstance(error, HostError) and not isinstance(error, LaunchError):
                    raise  # the host is at fault (a full disk, say), not the snapshot
                failures.append(error)
                self.factory.announce(f"snapshot {snapshot.directory.name} does not restore and is discarded: {error}")
                self._cache.discard(snapshot)
                self._snapshot = None
        # A guest can refuse to go on where it was saved, but not choose whose fault that is: it is judged as it boots.
        self.why_cold = f"a snapshot that was just made does not restore: {failures[-1]}".partition("\n")[0]
        self.factory.announce(f"not restored: {self.why_cold}")
        return None

    def _resume(self, stack: contextlib.ExitStack, snapshot: Snapshot, name: str) -> Machine:
        with contextlib.ExitStack() as inner:
            started = time.monotonic()
            memory = self._create_memory(inner, snapshot) if self._keeps else snapshot.memory
            overlay = self._scratch_file(inner, "overlay.qcow2")
            inner.callback(beside(overlay).unlink, missing_ok=True)
            layers = replace(snapshot.layers, overlay=overlay)
            spec = MachineSpec(name=name, state=InitialState.OFF, layers=layers, instance=snapshot.facts.instance,
                               memory=memory)  # fmt: skip
            machine = inner.enter_context(self.factory.create(spec))
            snapshots.resume(snapshot, machine)
            machine.restored_in = time.monotonic() - started
            self.factory.identify(machine)
            stack.enter_context(inner.pop_all())
        return machine

    def _create_memory(self, stack: contextlib.ExitStack, snapshot: Snapshot | None = None) -> MemoryFile:
        """Creates a file for the memory of one machine, so that the machine can be saved."""
        path = self._scratch_file(stack, "memory")
        if snapshot is None:
            create_memory_file(path, size=self.factory.context.memory)
        else:
            copy_sparse(snapshot.memory.path, path)
        return MemoryFile(path=path, state=snapshot.memory.state if snapshot else None)

    def _scratch_file(self, stack: contextlib.ExitStack, name: str) -> Path:
        path = self.factory.scratch_path(name)
        stack.callback(path.unlink, missing_ok=True)
        return path

    def _make(self, directory: Path) -> None:
        """Boots a machine, waits until it is up and quiet, and saves it in that directory."""
        factory, started = self.factory, time.monotonic()
        factory.announce("making a snapshot, from which later machines are restored")
        with contextlib.ExitStack() as stack:
            spec = MachineSpec(name="template-machine", memory=self._create_memory(stack))
            machine = stack.enter_context(factory.create(spec))
            if machine.access_method == AccessMethod.NONE:
                raise CannotRestore("the image has no shell, so the clock of a restored machine could not be set")
            wait_until_up(machine)  # if it fails, the tests that need a ready machine report that
            ready = time.monotonic()
            machine.run("sync")
            wait_until_quiet(machine)
            quiet_seconds = time.monotonic() - ready
            machine.save_records()
            try:
                clock_offset, nonce = snapshots.measure_clock_offset(machine), snapshots.prepare_reseed(machine)
            except ChannelError as error:
                raise CannotRestore(error.happened, evidence=error.evidence) from error
            snapshots.save(machine, directory, key=self.key(), profile=factory.profile.name,
                           clock_offset=clock_offset, seconds=time.monotonic() - started, quiet_seconds=quiet_seconds,
                           reseed_nonce=nonce)  # fmt: skip
        factory.announce(f"snapshot made in {time.monotonic() - started:.1f} s")

    def _announce_wait(self) -> None:
        self.factory.announce("waiting for another process to make the snapshot")


class SharedMachine:
    """One machine, used by one test after the other; after a test that changed it, the next one gets a new machine."""

    def __init__(self, pool: MachinePool) -> None:
        self._pool = pool
        self._stack = contextlib.ExitStack()
        self._machine: Machine | None = None
        self._baseline: tuple[SystemState, int] | None = None
        self._is_up = False

    @contextlib.contextmanager
    def use(self) -> Iterator[Machine]:
        """The machine, for one test; after the test it is compared with the state before.

        Raises:
            Explained: the image did not come up.
            SharedMachineModified: the test changed it.
        """
        machine = self.machine()
        if self._baseline is None:
            self._is_up = self._wait_until_quiet(machine)
            self._baseline = self._observe(machine)
        yield machine
        self._check()

    def machine(self) -> Machine:
        """Returns the machine; a new one at first and after a change.

        Raises:
            Explained: the image did not come up.
        """
        if self._machine is None or self._machine.boot.liveness.ended:
            self.close()
            self._machine = self._stack.enter_context(self._pool.restored("shared-machine"))
        return self._machine

    def close(self) -> None:
        """Powers off and removes the machine."""
        self._machine = self._baseline = None
        self._stack.close()

    def _wait_until_quiet(self, machine: Machine) -> bool:
        """Waits until the machine is quiet, as a restored one already is, and returns whether every unit came up."""
        is_up = wait_until_up(machine)
        if self._pool.why_cold:
            wait_until_quiet(machine)
        return is_up

    def _check(self) -> None:
        """Makes sure that the machine has not changed since the last observation.

        A boot that does not finish changes the machine as well; the test is not at fault for that.
        """
        if self._machine is None or self._baseline is None or self._machine.boot.liveness.ended:
            return
        (before, written_before), (after, written) = self._baseline, self._observe(self._machine)
        allowed = self._pool.factory.profile.sharing
        found = changes.differences(before, after, files=allowed.files, processes=allowed.processes)
        if (mebibytes := (written - written_before) / (1 << 20)) > allowed.disk:
            found.append(f"{mebibytes:.0f} MiB were written to the disk")
        self._baseline = (after, written)
        if found:
            self.close()
        if found and self._is_up:
            raise SharedMachineModified(
                "this test changed the machine that it shares with others", evidence="\n".join(found[:_SHOWN]),
                expected="no change but those that [sharing] of the profile allows",
                hint="remove @pytest.mark.shares_machine: the test then gets a machine of its own",
            )  # fmt: skip

    def _observe(self, machine: Machine) -> tuple[SystemState, int]:
        """Returns the state of the machine, and the number of bytes that it wrote to its disk."""
        if machine.access_method == AccessMethod.NONE:
            nothing = SystemState(changed=(), processes=frozenset(), mounted=frozenset())
            return nothing, machine.boot.bytes_written
        writable = {*self._pool.factory.profile.paths.writable} - _UNWATCHED
        return changes.observe(machine, sorted(writable)), machine.boot.bytes_written


def _why_cold(factory: MachineFactory, cold: bool) -> str:
    if cold:
        return "--cold was given"
    if not factory.emulator.can_restore:
        return f"QEMU {factory.emulator.version} cannot restore machines; 8.2 and later can"
    if factory.profile.access.has_no_shell:
        return "the profile has no shell, so the clock of a restored machine could not be set"
    return ""


def wait_until_up(machine: Machine) -> bool:
    """Waits until the boot has finished, and returns whether every unit came up."""
    try:
        machine.wait_until_ready()
    except BootFailed:
        return False
    return True


def wait_until_quiet(machine: Machine) -> None:
    """Waits until the machine uses hardly any processor time, or the time limit has passed."""
    deadline, processor_time, quiet = Deadline.after(_QUIET_LIMIT), machine.boot.process.processor_time, 0
    while quiet < _QUIET_INTERVALS and not deadline.expired:
        before, since = processor_time(), time.monotonic()
        machine.boot.liveness.pause(_INTERVAL, deadline)
        quiet = quiet + 1 if processor_time() - before <= _QUIET_SHARE * (time.monotonic() - since) else 0
