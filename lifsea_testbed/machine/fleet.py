"""Fleets: several machines at once, on a private network that connects nothing else."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import TypeVar

from lifsea_testbed.ecs.instance import NetworkInterface
from lifsea_testbed.machine.ethernet import Link, Switch
from lifsea_testbed.machine.factory import MachineFactory, MachineSpec
from lifsea_testbed.machine.machine import Machine

T = TypeVar("T")
#: The private network; no service of ECS and no usual pod network has an address in it.
_ADDRESS, _PREFIX = "10.77.0.{}", 24
#: How long a NIC may take to appear in a running guest, and to hold its address (seconds on real hardware).
_APPEARING = 10.0
#: An address that is still there after so long (seconds) was not removed by the guest's network manager.
_SETTLED = 1.0


class PrivateNetwork:
    """The network of a fleet: each machine has an address on it, each pair of machines a link."""

    def __init__(self, switch: Switch, machines: Sequence[Machine]) -> None:
        self._switch = switch
        self._machines = list(machines)
        self._nics = [NetworkInterface(plug=functools.partial(switch.plug, port)) for port in range(len(machines))]

    def address(self, machine: Machine) -> str:
        """Returns the machine's IPv4 address on the network."""
        return _ADDRESS.format(self._machines.index(machine) + 1)

    def link(self, one: Machine, other: Machine) -> Link:
        """Returns the link between two machines; changing it affects no other pair."""
        return self._switch.link(self._machines.index(one), self._machines.index(other))

    def links(self, machine: Machine) -> list[Link]:
        """Returns every link of a machine; cutting all of them is like pulling its cable."""
        return [self.link(machine, other) for other in self._machines if other is not machine]

    def attach(self, machine: Machine) -> None:
        """Attaches a running machine with a NIC of its own, and configures its address."""
        machine.network.attach_nic(self._nic(machine))
        self.configure(machine)

    def configure(self, machine: Machine) -> None:
        """Configures the address of the machine's NIC; has to be repeated after a reboot, which removes the address.

        Raises:
            NotJudged: the image has no ip(8).
            WaitTimedOut: the NIC did not appear, or does not keep the address.
        """
        mac, address = self._nic(machine).mac, f"{self.address(machine)}/{_PREFIX}"
        name = machine.wait_until(lambda: machine.guest.network.card(mac), "the NIC appears",
                                  within=_APPEARING)  # fmt: skip
        machine.wait_until(lambda: machine.guest.network.ensure_address(name, address), f"{name} holds {address}",
                           within=_APPEARING, every=_SETTLED)  # fmt: skip

    def _nic(self, machine: Machine) -> NetworkInterface:
        return self._nics[self._machines.index(machine)]


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Running machines, and the network between them."""

    machines: tuple[Machine, ...]
    network: PrivateNetwork

    def __iter__(self) -> Iterator[Machine]:
        """The machines, in the order of their addresses."""
        return iter(self.machines)


class FleetMaker:
    """Makes the fleets of one test; all their machines are removed when the context is left."""

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
            HostError: the host has too little memory for so many.
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
    """Makes the machines in parallel and attaches them to a network; all are removed when the context is left.

    Raises:
        Explained: one of them did not come up.
    """
    with ExitStack() as stack:
        switch = stack.enter_context(Switch(len(contexts)))
        machines = _enter(stack, contexts)
        network = PrivateNetwork(switch, machines)
        _in_parallel([functools.partial(network.attach, machine) for machine in machines])
        yield Fleet(machines=machines, network=network)


def _enter(stack: ExitStack, contexts: Sequence[AbstractContextManager[Machine]]) -> tuple[Machine, ...]:
    """Enters all contexts in parallel; the stack leaves those that were entered, even if others failed."""
    entered: list[AbstractContextManager[Machine]] = []

    def enter(context: AbstractContextManager[Machine]) -> Machine:
        machine = context.__enter__()
        entered.append(context)
        return machine

    try:
        return tuple(_in_parallel([functools.partial(enter, context) for context in contexts]))
    finally:
        for context in entered:
            stack.push(context)


def _in_parallel(tasks: Sequence[Callable[[], T]]) -> list[T]:
    """Runs each task on a thread of its own, waits for all, and returns their results."""
    with ThreadPoolExecutor(len(tasks)) as threads:
        futures = [threads.submit(task) for task in tasks]
    return [future.result() for future in futures]
