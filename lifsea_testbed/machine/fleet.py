"""Fleets: several machines at once, on a private network that exists between them alone."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import TypeVar

from lifsea_testbed.ecs.instance import NetworkInterface
from lifsea_testbed.machine.ethernet import Hub, Link
from lifsea_testbed.machine.factory import MachineFactory, MachineSpec
from lifsea_testbed.machine.machine import Machine

T = TypeVar("T")
#: The private network: none of ECS's own services and no usual network of pods has an address on it.
_ADDRESS, _PREFIX = "10.77.0.{}", 24
#: How long a card may take to appear in a running guest, and to hold its address (seconds on real hardware).
_APPEARING = 10.0
#: An address that is still there after so long (seconds) was not taken away by what manages the guest's network.
_SETTLED = 1.0


class Network:
    """The network between some machines, which have addresses on it and links between each two of them."""

    def __init__(self, hub: Hub, machines: Sequence[Machine]) -> None:
        self._hub = hub
        self._machines = list(machines)
        self._cards = [NetworkInterface(plug=functools.partial(hub.plug, port)) for port in range(len(machines))]

    def address(self, machine: Machine) -> str:
        """Returns the machine's IPv4 address on the network."""
        return _ADDRESS.format(self._machines.index(machine) + 1)

    def link(self, one: Machine, other: Machine) -> Link:
        """Returns the link between two machines: what is done to it does not touch any other pair."""
        return self._hub.link(self._machines.index(one), self._machines.index(other))

    def links(self, machine: Machine) -> list[Link]:
        """Returns every link of a machine: to cut them all is to pull its cable."""
        return [self.link(machine, other) for other in self._machines if other is not machine]

    def attach(self, machine: Machine) -> None:
        """Attaches a running machine by a network card of its own, and gives that its address."""
        machine.network.attach_nic(self._card(machine))
        self.configure(machine)

    def configure(self, machine: Machine) -> None:
        """Gives the machine's card its address; to be repeated after a reboot, which the address does not outlive.

        Raises:
            NotJudged: the image has no ip(8).
            WaitTimedOut: the card did not appear, or does not keep the address.
        """
        mac, address = self._card(machine).mac, f"{self.address(machine)}/{_PREFIX}"
        name = machine.wait_until(lambda: machine.guest.network.card(mac), "the network card appears",
                                  within=_APPEARING)  # fmt: skip
        machine.wait_until(lambda: machine.guest.network.ensure_address(name, address), f"{name} holds {address}",
                           within=_APPEARING, every=_SETTLED)  # fmt: skip

    def _card(self, machine: Machine) -> NetworkInterface:
        return self._cards[self._machines.index(machine)]


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Some machines that run, and the network between them."""

    machines: tuple[Machine, ...]
    network: Network

    def __iter__(self) -> Iterator[Machine]:
        """The machines, in the order of their addresses."""
        return iter(self.machines)


class FleetMaker:
    """Makes the fleets of one test; all their machines are gone when the context is left."""

    def __init__(self, test: str, factory: MachineFactory) -> None:
        self.machines: list[Machine] = []
        self._test = test
        self._factory = factory
        self._stack = ExitStack()

    def __enter__(self) -> FleetMaker:
        return self

    def __exit__(self, *_: object) -> None:
        """Removes the machines."""
        self._stack.close()

    def __call__(self, count: int) -> Fleet:
        """Returns so many machines that are up, each with an identity of its own, and the network between them.

        Raises:
            HostError: the host has not the memory for so many.
            Explained: one of them did not come up.
        """
        memory, first = self._factory.memory_for(count), len(self.machines) + 1
        specs = [MachineSpec(name=f"{self._test} machine {number}", guest_memory=memory)
                 for number in range(first, first + count)]  # fmt: skip
        made = self._stack.enter_context(fleet([self._factory.create(spec) for spec in specs]))
        self.machines += made
        return made


@contextlib.contextmanager
def fleet(contexts: Sequence[AbstractContextManager[Machine]]) -> Iterator[Fleet]:
    """Makes the machines side by side and attaches them to a network; all are gone when the context is left.

    Raises:
        Explained: one of them did not come up.
    """
    with ExitStack() as stack:
        hub = stack.enter_context(Hub(len(contexts)))
        machines = _enter(stack, contexts)
        network = Network(hub, machines)
        _side_by_side([functools.partial(network.attach, machine) for machine in machines])
        yield Fleet(machines=machines, network=network)


def _enter(stack: ExitStack, contexts: Sequence[AbstractContextManager[Machine]]) -> tuple[Machine, ...]:
    """Enters all contexts at once; the stack leaves those that were entered, even if others could not be."""
    entered: list[AbstractContextManager[Machine]] = []

    def enter(context: AbstractContextManager[Machine]) -> Machine:
        machine = context.__enter__()
        entered.append(context)
        return machine

    try:
        return tuple(_side_by_side([functools.partial(enter, context) for context in contexts]))
    finally:
        for context in entered:
            stack.push(context)


def _side_by_side(tasks: Sequence[Callable[[], T]]) -> list[T]:
    """Does each task on a thread of its own, waits for all, and returns what they returned."""
    with ThreadPoolExecutor(len(tasks)) as threads:
        futures = [threads.submit(task) for task in tasks]
    return [future.result() for future in futures]
