"""The commands that boot machines: `shell`, `boot-time`, `powercut`, `baseline`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

from lifsea_testbed.boottime import campaign as boot_times
from lifsea_testbed.boottime.marks import BootMark
from lifsea_testbed.boottime.observation import BootNumber
from lifsea_testbed.cli import shell as console
from lifsea_testbed.errors import CallerError, HostError
from lifsea_testbed.machine import preflight, snapshot
from lifsea_testbed.machine.context import RunContext
from lifsea_testbed.machine.factory import MachineFactory
from lifsea_testbed.powercut import campaign as power_cuts
from lifsea_testbed.profiles import baseline as baselines
from lifsea_testbed.profiles import profile as profiles
from lifsea_testbed.qemu.accelerator import AcceleratorKind
from lifsea_testbed.scenarios.baseline import take
from lifsea_testbed.support.host import OVERHEAD, available_memory
from lifsea_testbed.support.host_use import HostUse
from lifsea_testbed.support.sanitize import printable


def shell(options: argparse.Namespace) -> None:
    """Boots an image, or resumes a kept machine, and connects its console to the terminal."""
    if not options.kept:
        if not options.image:
            raise CallerError("neither --image nor --kept was given", hint="--image FILE, or --kept DIR")
        with _factory(_context(options)) as factory:
            console.boot(factory)
        return
    kept = snapshot.load(options.kept.resolve())
    options.image, options.profile, options.accel = kept.facts.image, kept.facts.profile, kept.facts.accelerator
    options.instance_type, options.firmware = kept.facts.instance.type.name, kept.facts.instance.firmware
    with _factory(_with_memory(_context(options), kept.facts.memory)) as factory:
        console.resume(factory, kept)


def powercut(options: argparse.Namespace) -> None:
    """Sweeps the crash states of an operation, or boots one of them."""
    sweep = power_cuts.SweepOptions.parse(
        reports=options.reports.resolve(), recording=options.recording, budget=options.budget, shard=options.shard,
        only=options.only, seed=options.seed, depth=options.depth, operation=options.cut, second=options.second,
        at_once=options.at_once,
    )  # fmt: skip
    if options.state and options.shell:
        console.require_terminal()
    with _factory(_context(options), announce=print) as factory:
        if not options.state:
            with _host(factory.context) as host:
                host.share()
                power_cuts.sweep(factory, sweep)
        elif options.shell:
            with power_cuts.machine(factory, sweep, options.state) as machine:
                machine.start()
                console.attach(machine)
        elif options.shrink:
            print(f"the smallest loss: {power_cuts.shrink(factory, sweep, options.state)}")
        else:
            power_cuts.boot(factory, sweep, options.state)


def boot_time(options: argparse.Namespace) -> None:
    """Boots one image, or two in turns, and prints the times that the boots take, with their causes."""
    campaign = boot_times.BootTimeOptions(
        boots=options.boots, floor=options.floor / 100, until=BootMark(options.until), initcalls=options.initcalls,
        which=tuple(BootNumber) if options.later else (BootNumber.FIRST,),
        reports=options.reports.resolve() / "boot-time",
    )  # fmt: skip
    with ExitStack() as stack:
        images = [options.image, *([options.against] if options.against else [])]
        factories = [stack.enter_context(_factory(_context(options, image))) for image in images]
        stack.enter_context(stack.enter_context(_host(factories[0].context)).exclusive("boots"))
        for line in boot_times.run(factories, campaign):
            print(printable(line), flush=True)


def baseline(options: argparse.Namespace) -> None:
    """Reads what an image has, and writes it as a profile to which later images are held."""
    output: Path = options.output.absolute()
    baselines.require_new(output)
    with _factory(_context(options), announce=print) as factory:
        taken = take(factory)
    baselines.write_new(output, taken.profile(output))
    profiles.load(str(output))
    for key, why in taken.left.items():
        print(printable(f"not taken: {key}: {why}"))
    keys = ", ".join(figure.key for figure in taken.figures)
    print(printable(f"{options.output}: {keys}; review it, then hold images to it by --profile {options.output}"))


def _context(options: argparse.Namespace, image: str = "") -> RunContext:
    return preflight.run_context(image=image or options.image, next_image=options.next_image, profile=options.profile,
                                 instance_type=options.instance_type, accelerator=options.accel,
                                 firmware=options.firmware,
                                 reports=options.reports.resolve())  # fmt: skip


def _with_memory(context: RunContext, memory: int) -> RunContext:
    """Returns the context with that much memory for each machine (MiB): as much as the saved machine has.

    Raises:
        HostError: the host has less memory free.
    """
    if memory + OVERHEAD > (available := available_memory()):
        raise HostError(f"the saved machine has {memory} MiB of memory; {available} MiB are free on this host",
                        expected=f"{memory + OVERHEAD} MiB free", hint="stop other programs, or run on a larger host")
    return replace(context, memory=memory)


def _host(context: RunContext) -> closing[HostUse]:
    """The use of this host, which runs of pytest on it respect as well."""
    return closing(HostUse(applies=context.accelerator.kind is AcceleratorKind.KVM, announce=print))


@contextmanager
def _factory(context: RunContext, announce: Callable[[str], None] = lambda line: None) -> Iterator[MachineFactory]:
    factory = MachineFactory(context, announce=announce)
    try:
        yield factory
    finally:
        factory.close()
