"""The kernel: how it was started, what it loaded, its settings, its messages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from lifsea_testbed.errors import AnswersDiffer
from lifsea_testbed.guest import initramfs, kernel_files, kernel_log
from lifsea_testbed.guest.answers import first_words, number, readable
from lifsea_testbed.guest.kernel_log import KernelLog, KernelMessage
from lifsea_testbed.support.lines import split_lines
from lifsea_testbed.support.protocols import Shell

#: From this syslog priority on (lower is graver) a message is an error.
_ERROR = 3
#: A program that died of a signal, or was denied something: messages of the kernel, systemd and security modules.
_CRASH_OR_DENIAL = re.compile(r"segfault at|general protection fault|traps: |code=dumped|dumped core|"
                              r"status=(?:4/ILL|6/ABRT|7/BUS|8/FPE|11/SEGV)|"
                              r'avc:\s+denied|apparmor="DENIED"')  # fmt: skip


class Kernel:
    """The running kernel; `allowed_errors` are regular expressions of error messages that the profile allows."""

    def __init__(self, shell: Shell, allowed_errors: Sequence[str] = ()) -> None:
        self._shell = shell
        self._allowed_errors = allowed_errors

    def release(self) -> str:
        """Returns the kernel's release, as `uname -r` prints it."""
        return self._shell.run("uname -r").stdout.strip()

    def loaded_modules(self, prefixes: Sequence[str]) -> list[str]:
        """Returns the loaded modules whose name starts with one of those; a kernel without modules has none."""
        loaded = first_words(self._shell.run(kernel_files.shown("/proc/modules")))
        return [module for module in loaded if module.startswith(tuple(prefixes))]

    def uptime(self) -> float:
        """Returns the seconds since the kernel started."""
        answer = self._shell.run("cat /proc/uptime")
        with readable(answer, expected="seconds"):
            return number(answer.stdout.split()[0])

    def memory_used(self) -> int:
        """Returns the bytes of memory that are in use and not available for anything else (proc(5), meminfo)."""
        answer = self._shell.run("cat /proc/meminfo")
        with readable(answer, expected="MemTotal and MemAvailable, in KiB"):
            sizes = {words[0]: int(words[1]) << 10 for words in map(str.split, answer.lines) if len(words) > 1}
            return sizes["MemTotal:"] - sizes["MemAvailable:"]

    def sysctls(self, names: Iterable[str]) -> dict[str, int | str]:
        """Returns the value of each kernel setting (sysctl(8)); "absent" for one that the kernel does not have.

        Raises:
            AnswersDiffer: `cat` prints another value than the shell itself reads.
        """
        paths = {name: f"/proc/sys/{name.replace('.', '/')}" for name in names}
        script = "; ".join(f"cat {path} 2>/dev/null || echo absent" for path in paths.values())
        answer, raw = self._shell.run(script or ":"), self._shell.run(kernel_files.first_lines(paths.values()))
        with readable(answer, raw, expected=f"a line for each of {', '.join(paths)}"):
            _require_same(paths, split_lines(answer.stdout), split_lines(raw.stdout))
            return {name: int(value) if re.fullmatch(r"-?[0-9]+", value) else value
                    for name, value in zip(paths, split_lines(answer.stdout), strict=True)}  # fmt: skip

    def cgroup_version(self) -> int:
        """Returns the version of the kernel's control groups (cgroups(7))."""
        mounted = self._shell.run("stat --file-system --format=%T /sys/fs/cgroup").stdout.strip()
        return 2 if mounted == "cgroup2fs" else 1

    def swaps(self) -> list[str]:
        """Returns the files and devices that the kernel swaps to (proc(5))."""
        lines = self._shell.run("cat /proc/swaps", check=False).lines
        return [line.split()[0] for line in lines[1:] if line.strip()]

    def messages(self) -> list[KernelMessage]:
        """Returns the messages of this boot, from the kernel's buffer, or from the journal where the buffer wrapped."""
        return list(kernel_log.read(self._shell).messages)

    def errors(self) -> list[str]:
        """Returns the messages of priority error or graver that match none of the allowed regular expressions.

        Raises:
            NotJudged: there is none, and the start of the log was overwritten.
        """
        harmless = [re.compile(pattern) for pattern in self._allowed_errors]
        log = kernel_log.read(self._shell)
        graves = [message.text for message in log.messages if message.priority <= _ERROR]
        return _known(log, [text for text in graves if not any(pattern.search(text) for pattern in harmless)])

    def crashes_and_denials(self) -> list[str]:
        """Returns the lines of journal and kernel buffer on programs that died of a signal or were denied something.

        Raises:
            NotJudged: there is none, and the start of the log was overwritten.
        """
        journal = self._shell.run("journalctl --boot --no-pager --output=cat", check=False).lines
        log = kernel_log.read(self._shell)
        lines = [*(message.text for message in log.messages), *journal]
        return _known(log, list(dict.fromkeys(text for text in lines if _CRASH_OR_DENIAL.search(text))))

    def initramfs_signs(self) -> list[str]:
        """Returns every sign of an initramfs: boot entries and kernel images that load one, records of one that ran.

        Raises:
            NotJudged: there is none, and the start of the log was overwritten.
        """
        signs = self._shell.run(initramfs.SCRIPT).lines
        signs += initramfs.parse_unified(self._shell.run(initramfs.UNIFIED).stdout)
        log = kernel_log.read(self._shell)
        return _known(log, signs + [one.text for one in log.messages if initramfs.MESSAGES.search(one.text)])


def _require_same(names: Iterable[str], printed: Sequence[str], raw: Sequence[str]) -> None:
    """Makes sure that a program printed what the shell reads, which may be no more than the first byte of a number."""
    for name, shown, read in zip(names, printed, raw, strict=True):
        if read != shown and not (len(read) == 1 and shown.startswith(read)):
            raise AnswersDiffer(f"cat prints {shown!r} of {name}, the kernel's file begins with {read!r}",
                                expected="a cat that prints what is in a file")


def _known(log: KernelLog, found: list[str]) -> list[str]:
    """What was found in a log; nothing only if the log is complete."""
    if not found:
        log.require_complete()
    return found
