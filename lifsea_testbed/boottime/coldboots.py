"""The cold boots of one run of the suites: counted where nothing else can be judged, and handed over as figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lifsea_testbed.boottime import budget, observe
from lifsea_testbed.boottime.marks import END, Mark
from lifsea_testbed.boottime.observation import Observation, Which
from lifsea_testbed.errors import NotJudged
from lifsea_testbed.machine.factory import MachineFactory
from lifsea_testbed.perf.metric import Metric
from lifsea_testbed.profiles.profile import Boot
from lifsea_testbed.qemu.accelerator import AcceleratorKind
from lifsea_testbed.qemu.instruction_counter import Counter

if TYPE_CHECKING:
    from lifsea_testbed.perf.compare import BudgetCheck

_INSTRUCTIONS = "less waiting and ticks"
#: Marks that are figures of their own, beside the phases of the boot.
_FURTHER = (Mark.TARGET, Mark.ASSISTANT, Mark.CONTAINERD, Mark.FINISHED, Mark.QUIET, Mark.KUBELET)


@dataclass(frozen=True, kw_only=True)
class ColdBoots:
    """The cold boots of one image, and whether they ran at hardware speed."""

    seen: list[Observation]
    at_hardware_speed: bool

    def report(self, measure: Callable[..., None]) -> None:
        """Hands over each figure of each boot: the whole, its phases, the further marks; times and instructions."""
        for one in self.seen:
            for name, value, unit, definition in _figures(one):
                measure(name, value, unit=unit, better="lower", definition=definition)

    def held_to(self, promised: Boot) -> BudgetCheck:
        """Returns whether the first boot is certain to be as quick as advertised.

        Raises:
            NotJudged: this host cannot tell.
        """
        return budget.judge(self.seen, promised, at_hardware_speed=self.at_hardware_speed)


def cold_boots(factory: MachineFactory, count: int) -> ColdBoots:
    """Boots the factory's image so many times for the first time; where emulation is slow, not until the kubelet.

    Raises:
        Explained: it did not come up.
    """
    with ExitStack() as stack:
        counting = counter(stack, factory)
        until = Mark.FINISHED if counting else Mark.KUBELET
        seen = [one for number in range(count)
                for one in observe.boots(factory, f"cold-boot-{number + 1}", counting, until=until)]  # fmt: skip
    return ColdBoots(seen=seen, at_hardware_speed=factory.accelerator.kind is AcceleratorKind.KVM)


def counter(stack: ExitStack, factory: MachineFactory) -> Counter | None:
    """What counts, or nothing where nothing can: times are told all the same."""
    try:
        return stack.enter_context(observe.counting(factory))
    except NotJudged as error:
        factory.announce(f"instructions are not counted: {error}")
        return None


def _figures(one: Observation) -> Iterator[tuple[str, Any, str, str]]:
    kind = f"{one.which} boot"
    prefix = "" if one.which is Which.FIRST else "later-"
    yield f"{prefix}boot", one.marks[END], "s", _definition(budget.BOOT, one)
    for phase in one.phases:
        yield f"{prefix}boot/{phase.name}", phase.duration, "s", f"phase of the {kind}, by the host's clock"
    for mark in _FURTHER:
        if mark in one.marks:
            yield f"{prefix}boot-to-{mark}", one.marks[mark], "s", f"from power-on until {mark}, {kind}"
    if one.is_counted:
        yield f"{prefix}boot-instructions", one.progress[END].counts.work, "instructions", \
            _definition(budget.INSTRUCTIONS, one)  # fmt: skip
        for name, count in one.instructions().items():
            yield f"{prefix}boot-instructions/{name}", count, "instructions", f"phase of the {kind}, {_INSTRUCTIONS}"


def _definition(metric: Metric, one: Observation) -> str:
    return metric.definition.replace("first boot", f"{one.which} boot")
