"""The table of fatal console lines: messages after which a guest never works again."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lifsea_testbed.errors import Explained, MachineStarved, TimerStarved


@dataclass(frozen=True, kw_only=True)
class Suspicion:
    """What makes a fatal line the host's fault: so many seconds without a processor, within so many before the line.

    Or, if `idle` is not 0, under emulation: a virtual CPU that executed nothing for so many seconds.
    """

    withheld: float
    within: float
    idle: float = 0.0


@dataclass(frozen=True, kw_only=True)
class FatalLine:
    """A kind of fatal line. It raises GuestCrashed, or `starved` where the host withheld the processor for long enough.

    That is the share `share` of the seconds that the line names, or of `seconds` where it names none. `is_of_timer`: it
    says that a timer did not fire for that time, which an emulator that lost the timer of an idle CPU causes as well.
    """

    name: str
    pattern: re.Pattern[str]
    starved: type[Explained] | None = None
    seconds: float = 0.0
    share: float = 1 / 3
    is_of_timer: bool = False

    def suspicion(self, line: str) -> Suspicion | None:
        """Returns what the host has to be measured for, or None if it cannot be at fault."""
        if self.starved is None:
            return None
        match = self.pattern.search(line)
        named = match.groupdict().get("seconds") if match else None
        # A guest that names another time is not believed beyond these bounds: no watchdog waits longer by default.
        within = min(max(float(named[:9]), self.seconds), _LONGEST) if named else self.seconds
        return Suspicion(withheld=self.share * within, within=within, idle=_IDLE * within if self.is_of_timer else 0.0)


def _fatal(name: str, pattern: str) -> FatalLine:
    return FatalLine(name=name, pattern=re.compile(pattern))


def _late(name: str, pattern: str, starved: type[Explained], *, seconds: float, share: float = 1 / 3,
          is_of_timer: bool = False) -> FatalLine:  # fmt: skip
    """A message of a kernel for which something took too long."""
    return FatalLine(name=name, pattern=re.compile(pattern), starved=starved, seconds=seconds, share=share,
                     is_of_timer=is_of_timer)  # fmt: skip


# The optional time stamp that printk puts before a message, and the file and line that later GRUBs put before one.
_STAMP = r"^(?:\[\s*\d+\.\d+\](?:\[[^\]]*\])? )?"
_GRUB = r"^error: (?:\S+:\d+:)? ?"
#: The longest time of a watchdog that is believed (seconds): twice that of a hung task.
_LONGEST = 240.0
#: The share of the time of a stall for which a CPU without its timer executes nothing: the last timer before was due
#: within it, and samples are a second apart.
_IDLE = 0.8

#: Sources: kernel/panic.c, lib/bug.c, arch/x86/kernel/dumpstack.c, kernel/hung_task.c, kernel/watchdog.c,
#: kernel/rcu/tree_stall.h and mm/oom_kill.c of Linux; emergency.service and core/crash-handler.c of systemd;
#: grub-core/normal, kern/rescue_reader, commands/boot and loader/i386/linux of GRUB; dracut's emergency_shell. The
#: timer: check_timer of arch/x86/kernel/apic/io_apic.c waits for a tick for ten ticks, which are 40 to 100 ms, and
#: rcu_check_gp_kthread_expired_fqs_timer of kernel/rcu/tree_stall.h finds one overdue by 20 s.
TABLE = (
    _late("timer does not tick", _STAMP + r"Kernel panic - not syncing: IO-APIC \+ timer doesn't work", TimerStarved,
          seconds=3.0, share=0.04 / 3.0),
    _late("timer does not tick", _STAMP + r"rcu: .* kthread timer wakeup didn't happen for \d+ jiffies", TimerStarved,
          seconds=20.0, is_of_timer=True),
    _late("soft lock-up", _STAMP + r"watchdog: BUG: soft lockup(?:.* stuck for (?P<seconds>\d+)s)?", MachineStarved,
          seconds=20.0),
    _late("hard lock-up", _STAMP + r"(?:NMI )?watchdog: Watchdog detected hard LOCKUP", MachineStarved, seconds=10.0),
    _late("RCU stall", _STAMP + r"(?:rcu: )?INFO: rcu\w* (?:self-)?detected (?:expedited )?stalls?", TimerStarved,
          seconds=20.0, is_of_timer=True),
    _late("hung task", _STAMP + r"INFO: task .+ blocked for more than (?P<seconds>\d+) seconds", MachineStarved,
          seconds=20.0),
    _fatal("kernel panic", _STAMP + r"Kernel panic - not syncing"),
    _fatal("kernel oops", _STAMP + r"(?:Oops(?:: | -)|BUG: unable to handle|general protection fault|"
           r"[a-z0-9 ]+: [0-9a-f]{4} \[#\d+\])"),
    _fatal("kernel bug", _STAMP + r"kernel BUG at "),
    _fatal("out of memory in a system unit", _STAMP + r"oom-kill:.*,task_memcg=/system\.slice/"),
    _fatal("out of memory with nothing to kill", _STAMP + r"Out of memory and no killable processes"),
    _fatal("init stopped", r"^\[!!!!!!\] |" + _STAMP + r"systemd\[1\]: Freezing execution"),
    _fatal("emergency mode", r"You are in (?:emergency|rescue) mode|Cannot open access to console, the root account"
           r"|^Entering emergency mode\. Exit the shell"),
    _fatal("initramfs shell", r"^(?:\(initramfs\)|dracut:/#|:/# *$|ALERT!.* does not exist)"),
    _fatal("root file system not mounted", _STAMP + r"VFS: (?:Cannot open root device|Unable to mount root fs)"),
    _fatal("boot loader stopped", r"^grub(?: rescue)?> |" + _GRUB + r"(?:no such partition|unknown filesystem"
           r"|file [^ ]*(?:vmlinu|linux|bzImage|kernel)[^/ ]* not found|you need to load the kernel first)"),
    _fatal("firmware found nothing to boot", r"No bootable device|Boot failed: not a bootable disk"
           r"|BdsDxe: No bootable option or device was found|UEFI Interactive Shell v\d"),
)


def find(line: str) -> FatalLine | None:
    """Returns the kind of fatal line that matches this printable line, or None."""
    return next((fatal for fatal in TABLE if fatal.pattern.search(line)), None)
