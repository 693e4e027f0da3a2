"""SELinux: whether the kernel enforces a policy, on every program, and at the next boot as well."""

from __future__ import annotations

import re

from lifsea_testbed.support.protocols import Shell

#: selinux(8) and the kernel's selinuxfs: `enforce` is 1 or 0, `policyvers` and `policy` are those of the loaded policy.
_STATE = """
cd /sys/fs/selinux 2>/dev/null && [ -e enforce ] || { echo "kernel: no SELinux"; exit 0; }
echo "enforce: $(cat enforce)"
[ "$(wc -c <policy 2>/dev/null || echo 0)" -gt 0 ] || echo "kernel: no policy is loaded"
exit 0
"""
_CONFIGURATION = "cat /etc/selinux/config 2>/dev/null || :"
_ARGUMENTS = "cat /proc/cmdline"
#: A program has an executable file, a thread of the kernel has none.
_CONTEXTS = """
for process in /proc/[0-9]*; do
    [ -e "$process/exe" ] || continue
    tr -d '\\0' <"$process/attr/current" && echo " $(cat "$process/comm")"
done 2>/dev/null
exit 0
"""
#: Types under which a policy denies nothing, or which none has assigned.
_UNBOUND = re.compile(r"(?:kernel|unconfined|unlabeled|init)(?:_t)?$")
_MODES = {"1": "enforcing", "0": "permissive"}


class Selinux:
    """SELinux as the running kernel, its command line and the configuration have it."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def deviations(self, mode: str) -> list[str]:
        """Returns every sign that SELinux is not in that mode (`enforcing`, `permissive`), now or at the next boot."""
        run = self._shell.run
        return [*running(run(_STATE).lines, mode), *arguments(run(_ARGUMENTS).stdout, mode),
                *configured(run(_CONFIGURATION).stdout, mode), *unbound(run(_CONTEXTS).lines)]  # fmt: skip


def running(lines: list[str], mode: str) -> list[str]:
    """Returns what is wrong with the state of the running kernel."""
    found = [line for line in lines if line.startswith("kernel: ")]
    shown = [line.partition(": ")[2].strip() for line in lines if line.startswith("enforce: ")]
    return found + [f"kernel: {_MODES.get(value, value)}" for value in shown if _MODES.get(value) != mode]


def arguments(command_line: str, mode: str) -> list[str]:
    """Returns the arguments of a kernel that switch SELinux off, or out of that mode."""
    wrong = {"selinux=0", "enforcing=0"} if mode == "enforcing" else {"selinux=0"}
    return [f"kernel argument {word}" for word in command_line.split() if word in wrong]


def configured(text: str, mode: str) -> list[str]:
    """Returns what is wrong with /etc/selinux/config: the last line with SELINUX= decides the mode of the next boot."""
    values = re.findall(r"(?m)^[ \t]*SELINUX[ \t]*=[ \t]*(\w*)", text)
    if not values:
        return ["/etc/selinux/config: no SELINUX="]
    return [] if values[-1].lower() == mode else [f"/etc/selinux/config: SELINUX={values[-1]}"]


def unbound(lines: list[str]) -> list[str]:
    """Returns a sign if every program runs under a type that the policy does not confine (context and name a line)."""
    types = [context.split(":")[2] if context.count(":") >= 2 else context for context in
             (line.partition(" ")[0] for line in lines if line.strip())]  # fmt: skip
    if types and not all(_UNBOUND.fullmatch(one) for one in types):
        return []
    return [f"no program is confined: {', '.join(sorted(set(types))) or 'none has a context'}"]
