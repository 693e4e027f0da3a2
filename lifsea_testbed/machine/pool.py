"""The restorer: machines that go on from a template, each clean, each in a fraction of the time of a boot.

The template is made when the first machine is asked for, and kept in the user's cache for later runs. Where machines
cannot be restored, they are booted, and `why_cold` says why.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from lifsea_testbed.errors import BootFailed, ChannelError, HostError, LaunchError, TestbedError
from lifsea_testbed.machine import snapshot as templates
from lifsea_testbed.machine.factory import AUTO, Bench
from lifsea_testbed.machine.machine import Machine
from lifsea_testbed.machine.snapshot import Template
from lifsea_testbed.machine.snapshot_cache import TemplateCache
from lifsea_testbed.profiles.profile import Road
from lifsea_testbed.qemu.storage import Layers, MemoryFile, copy_sparse, create_memory_file
from lifsea_testbed.support.deadline import Deadline

#: A machine is quiet when QEMU uses no more than this share of one processor in so many looks that follow each other,
#: so far apart (seconds); one that never is gets saved after so long (seconds).
_QUIET, _LOOKS, _BETWEEN, _RESTLESS = 0.25, 3, 0.25, 30.0


class CannotRestore(TestbedError):
    """Machines of this image cannot go on from a template; they are booted instead."""


class Restorer:
    """Lends machines of one bench; with `keeps` each of them can be saved at any time."""

    def __init__(self, bench: Bench, cache: TemplateCache, *, cold: bool = False, keeps: bool = False) -> None:
        self.why_cold = _why_cold(bench, cold)
        self.bench = bench
        self._cache = cache
        self._keeps = keeps
        self._key: dict[str, str] = {}
        self._template: Template | None = None

    @contextlib.contextmanager
    def machine(self, name: str) -> Iterator[Machine]:
        """A machine in the state of the template, its shell open; gone when the context is left.

        Raises:
            TestbedError: the template does not restore, and neither does the one that was made in its stead.
            Explained: the image did not come up.
        """
        with contextlib.ExitStack() as stack:
            machine = self._restored(stack, name)
            yield machine or stack.enter_context(self.booted(name))

    @contextlib.contextmanager
    def booted(self, name: str) -> Iterator[Machine]:
        """A machine that was booted cold."""
        with contextlib.ExitStack() as stack:
            memory = self._own_memory(stack) if self._keeps else None
            yield stack.enter_context(self.bench.machine(name, memory=memory))

    def template(self) -> Template | None:
        """Returns the template, made if need be, or nothing if machines have to be booted.

        Raises:
            Explained: the image did not come up.
        """
        if self.why_cold:
            return None
        if self._template is None:
            self._require_no_data_disk()
        if self._template is None and not self.why_cold:
            try:
                self._template = self._cache.get(self.key(), self._make, self._say_that_another_makes_it)
            except CannotRestore as error:
                self.why_cold = error.happened
                self.bench.say(f"not restored: {self.why_cold}")
        return self._template

    def _require_no_data_disk(self) -> None:
        if self.bench.data_disk:
            self.why_cold = "the data disk would have to be saved as well"

    def key(self) -> dict[str, str]:
        """Returns what tells the machines of this bench from others, as it was when it was first asked for."""
        self._key = self._key or {"format": str(templates.FORMAT), **self.bench.key()}
        return self._key

    def keep(self, machine: Machine, directory: Path, profile: str) -> None:
        """Stops a machine for good and saves it as it stands; the profile is the one that was asked for.

        Raises:
            TestbedError: its memory is not in a file of its own, or QEMU is gone.
        """
        name = self.bench.profile_name if profile == AUTO else profile
        templates.keep(machine, directory, key=self.key(), profile=name)

    def close(self) -> None:
        """Lets the template go."""
        self._cache.__exit__()

    def _restored(self, stack: contextlib.ExitStack, name: str) -> Machine | None:
        """Tries twice: a template that does not restore is discarded and made anew, once."""
        failures: list[Exception] = []
        while len(failures) < 2:
            template = self.template()
            if template is None:
                return None
            try:
                return self._go_on(stack, template, name)
            except (TestbedError, OSError) as error:
                if isinstance(error, HostError) and not isinstance(error, LaunchError):
                    raise  # the host has no room for it, whatever is in the template
                failures.append(error)
                self.bench.say(f"template {template.directory.name} does not restore and is discarded: {error}")
                self._cache.discard(template)
                self._template = None
        raise TestbedError("a template that was just made does not restore", evidence="\n".join(map(str, failures)),
                           expected="a machine goes on from where it was saved", hint="use --cold")  # fmt: skip

    def _go_on(self, stack: contextlib.ExitStack, template: Template, name: str) -> Machine:
        with contextlib.ExitStack() as inner:
            began = time.monotonic()
            memory = self._own_memory(inner, template) if self._keeps else template.memory
            layers = Layers(below=template.layers.below, overlay=self._place(inner, "overlay.qcow2"))
            machine = inner.enter_context(self.bench.off(name, layers=layers, instance=template.facts.instance,
                                                         memory=memory))  # fmt: skip
            templates.resume(template, machine)
            machine.restored_in = time.monotonic() - began
            self.bench.identify(machine)
            stack.enter_context(inner.pop_all())
        return machine

    def _own_memory(self, stack: contextlib.ExitStack, template: Template | None = None) -> MemoryFile:
        """A file of the machine's own for its memory, so that it can be saved."""
        path = self._place(stack, "memory")
        if template is None:
            create_memory_file(path, size=self.bench.fitting.memory)
        else:
            copy_sparse(template.memory.path, path)
        self.bench.accelerator.confinement.admit(path)
        return MemoryFile(path=path, state=template.memory.state if template else None)

    def _place(self, stack: contextlib.ExitStack, name: str) -> Path:
        path = self.bench.room(name)
        stack.callback(path.unlink, missing_ok=True)
        return path

    def _make(self, directory: Path) -> None:
        """Boots a machine, waits until it is up and quiet, and saves it."""
        bench, began = self.bench, time.monotonic()
        bench.say("making a template, which later machines are restored from")
        with contextlib.ExitStack() as stack, bench.machine("template-machine",
                                                            memory=self._own_memory(stack)) as machine:  # fmt: skip
            if machine.road is Road.NONE:
                raise CannotRestore("the image offers no shell to set a restored machine's clock by")
            comes_up(machine)  # whoever needs it to be ready finds out if it is not
            ready = time.monotonic()
            machine.run("sync")
            await_quiet(machine)
            quiet = time.monotonic() - ready
            machine.save_evidence()
            try:
                ahead, waiting = templates.clock_ahead(machine), templates.wait(machine)
            except ChannelError as error:
                raise CannotRestore(error.happened, evidence=error.evidence) from error
            templates.save(machine, directory, key=self.key(), profile=bench.profile_name, ahead=ahead,
                           took=time.monotonic() - began, quiet=quiet, waiting=waiting)  # fmt: skip
        bench.say(f"template made in {time.monotonic() - began:.1f} s")

    def _say_that_another_makes_it(self) -> None:
        self.bench.say("another process makes the template; waiting for it")


def _why_cold(bench: Bench, cold: bool) -> str:
    if cold:
        return "asked for"
    if not bench.emulator.can_restore:
        return f"QEMU {bench.emulator.version} cannot; 8.2 and later can"
    if bench.profile.access.has_no_shell:
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
