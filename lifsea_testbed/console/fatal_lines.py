"""The table of fatal console lines: messages after which a guest never works again."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lifsea_testbed.errors import Explained, GuestCrashed, TimerStarved


@dataclass(frozen=True, kw_only=True)
class FatalLine:
    """A kind of fatal line and the error that it raises: GuestCrashed, unless the host is to blame."""

    name: str
    pattern: re.Pattern[str]
    error: type[Explained] = GuestCrashed


def _fatal(name: str, pattern: str, error: type[Explained] = GuestCrashed) -> FatalLine:
    return FatalLine(name=name, pattern=re.compile(pattern), error=error)


# The optional time stamp that printk puts before a message.
_STAMP = r"^(?:\[\s*\d+\.\d+\](?:\[[^\]]*\])? )?"

#: Sources: kernel/panic.c, lib/bug.c, arch/x86/kernel/dumpstack.c, kernel/hung_task.c, kernel/watchdog.c and
#: mm/oom_kill.c of Linux; emergency.service of systemd; grub-core/normal and kern/rescue_reader of GRUB; dracut. The
#: timer: check_timer of arch/x86/kernel/apic/io_apic.c, which waits for ticks that a busy host may not deliver, and
#: rcu_check_gp_kthread_expired_fqs_timer of kernel/rcu/tree_stall.h, which found one overdue by 20 s.
TABLE = (
    _fatal("the machine's timer starved", _STAMP + r"(?:Kernel panic - not syncing: IO-APIC \+ timer doesn't work"
           r"|rcu: .* kthread timer wakeup didn't happen for \d+ jiffies)",
           TimerStarved),
    _fatal("kernel panic", _STAMP + r"Kernel panic - not syncing"),
    _fatal("kernel oops", _STAMP + r"(?:Oops(?:: | -)|BUG: unable to handle|general protection fault|"
           r"[a-z0-9 ]+: [0-9a-f]{4} \[#\d+\])"),
    _fatal("kernel bug", _STAMP + r"kernel BUG at "),
    _fatal("soft lock-up", _STAMP + r"watchdog: BUG: soft lockup"),
    _fatal("hung task", _STAMP + r"INFO: task .+ blocked for more than \d+ seconds"),
    _fatal("out of memory in a system unit", _STAMP + r"oom-kill:.*,task_memcg=/system\.slice/"),
    _fatal("out of memory with nothing to kill", _STAMP + r"Out of memory and no killable processes"),
    _fatal("emergency mode", r"You are in (?:emergency|rescue) mode|Cannot open access to console, the root account"),
    _fatal("initramfs shell", r"^(?:\(initramfs\)|dracut:/#|ALERT!.* does not exist)"),
    _fatal("root file system not mounted", _STAMP + r"VFS: (?:Cannot open root device|Unable to mount root fs)"),
    _fatal("boot loader stopped", r"^(?:grub(?: rescue)?> |error: (?:no such partition|unknown filesystem))"),
    _fatal("firmware found nothing to boot", r"(?:No bootable device|Boot failed: not a bootable disk)"),
)


def find(line: str) -> FatalLine | None:
    """Returns the kind of fatal line that matches this printable line, or None."""
    return next((fatal for fatal in TABLE if fatal.pattern.search(line)), None)
