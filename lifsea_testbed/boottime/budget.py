"""The advertised boot time: judged by the clock on real hardware, by instructions under emulation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lifsea_testbed.boottime.marks import END
from lifsea_testbed.boottime.observation import Observation
from lifsea_testbed.errors import NotJudged, Reason
from lifsea_testbed.perf.metric import Better, Metric
from lifsea_testbed.profiles.profile import BootSection, require
from lifsea_testbed.qemu.accelerator import Accelerator, AcceleratorKind

if TYPE_CHECKING:
    from lifsea_testbed.perf.compare import BudgetCheck

BOOT = Metric(name="boot", unit="s", better=Better.LOWER,
              definition="from power-on (QMP cont) until the root shell of user-data answers, first boot")  # fmt: skip
INSTRUCTIONS = Metric(
    name="boot-instructions", unit="instructions", better=Better.LOWER,
    definition="executed from power-on until the root shell of user-data answers, first boot; less waiting and ticks",
)  # fmt: skip


def times(seen: Sequence[Observation]) -> list[float]:
    """Returns the seconds of each boot until the mark that an advertised boot time is compared with."""
    return [one.marks[END] for one in seen]


def instructions(seen: Sequence[Observation]) -> list[float]:
    """Returns the instructions until that mark, of each boot whose instructions were counted."""
    return [float(one.progress[END].counts.work) for one in seen if one.is_counted]


def judge(seen: Sequence[Observation], promised: BootSection, accelerator: Accelerator) -> BudgetCheck:
    """Returns whether the first boot is certain to be as quick as advertised, by the worse end of its interval.

    Under KVM the clock judges, if the host is as fast as an ecs.g7. Under emulation, more instructions than the
    profile's budget are too slow on any machine. Within the budget, the sum of two times must not exceed the promise:
    that of the instructions at the budget's own rate, and the least time for which all processors had halted.

    Raises:
        NotJudged: KVM on this host has not the speed of an ecs.g7; or under emulation, neither is certain, or no
            instructions were counted.
    """
    try:
        from lifsea_testbed.perf import compare as judges
    except ImportError:
        raise NotJudged("the median's interval needs more packages (pip install 'lifsea-testbed[perf]')",
                        Reason.HOST) from None
    if accelerator.kind is AcceleratorKind.KVM:
        if accelerator.other_pace:
            raise NotJudged(f"the clock does not judge: {accelerator.other_pace} (--accel tcg counts instructions)",
                            Reason.HOST)
        return judges.check(BOOT, times(seen), promised.promised)
    budget = require(promised.instructions, "boot.instructions")
    counted = instructions(seen)
    if not counted:
        raise NotJudged("emulated, and instructions were not counted", Reason.HOST)
    check = judges.check(INSTRUCTIONS, counted, budget)
    idle = min(one.progress[END].idle for one in seen if one.is_counted)
    worst = check.median.high / budget * promised.promised + idle
    if check.kept and worst > promised.promised:
        raise NotJudged(f"emulated: {check}; but all processors had halted for {idle:.2f} s, which makes up to "
                        f"{worst:.2f} s with them, and this host cannot tell its delays from the image's",
                        Reason.HOST)  # fmt: skip
    return check
