"""The kernel: how it was started, what it had to load, what it complained of."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from lifsea_testbed.support.protocols import Shell

#: From this syslog priority on (lower is graver) a message is an error.
_ERROR = 3
_UNPACKED = re.compile(r"Unpacking initramfs|Trying to unpack rootfs image as initramfs|Freeing initrd memory")
#: Where boot loaders keep what they may boot, below /boot, and which of the lines there loads an initramfs.
BOOT_ENTRIES = (
    "loader/entries/*.conf", "efi/loader/entries/*.conf", "grub*/grub.cfg", "extlinux/*.conf", "syslinux/*.cfg",
)  # fmt: skip
_LOADING = "(initrd|linux[^#]* initrd=)"
#: A program that died of a signal, or was denied something: as the kernel, systemd and the security modules say it.
_TROUBLE = re.compile(r"segfault at|general protection fault|traps: |code=dumped|dumped core|"
                      r"status=(?:4/ILL|6/ABRT|7/BUS|8/FPE|11/SEGV)|"
                      r'avc:\s+denied|apparmor="DENIED"')  # fmt: skip
_ASK_BOOT_ENTRIES = f"""
cd /boot 2>/dev/null || exit 0
for file in {" ".join(BOOT_ENTRIES)}; do
    [ -f "$file" ] && grep -H -i -E '^[[:space:]]*{_LOADING}' "$file"
done
exit 0
"""


@dataclass(frozen=True, kw_only=True)
class Message:
    """A kernel message with its syslog priority (0 emergency … 7 debug)."""

    priority: int
    text: str


def release(shell: Shell) -> str:
    """Returns what uname -r prints."""
    return shell.run("uname -r").stdout.strip()


def loaded_modules(shell: Shell) -> list[str]:
    """Returns the names of the loaded modules; a kernel without modules has none."""
    return [line.split()[0] for line in shell.run("cat /proc/modules 2>/dev/null || :").lines]


def uptime(shell: Shell) -> float:
    """Returns the seconds since the kernel started."""
    return float(shell.run("cat /proc/uptime").stdout.split()[0])


def memory_used(shell: Shell) -> int:
    """Returns the bytes of memory that are in use and not available for anything else (proc(5), meminfo)."""
    lines = (line.split() for line in shell.run("cat /proc/meminfo").lines)
    sizes = {words[0]: int(words[1]) << 10 for words in lines if len(words) > 1}
    return sizes["MemTotal:"] - sizes["MemAvailable:"]


def sysctls(shell: Shell, names: Iterable[str]) -> dict[str, int | str]:
    """Returns the value of each kernel setting (sysctl(8)); of one that the kernel does not have, "absent"."""
    paths = {name: f"/proc/sys/{name.replace('.', '/')}" for name in names}
    script = "; ".join(f"cat {path} 2>/dev/null || echo absent" for path in paths.values())
    values = shell.run(script or ":").stdout.split()
    return {name: int(value) if value.lstrip("-").isdigit() else value
            for name, value in zip(paths, values, strict=True)}  # fmt: skip


def troubles(shell: Shell) -> list[str]:
    """Returns what the kernel and the journal say of programs that died of a signal or were denied something."""
    journal = shell.run("journalctl --boot --no-pager --output=cat", check=False).lines
    said = [*(message.text for message in messages(shell)), *journal]
    return list(dict.fromkeys(text for text in said if _TROUBLE.search(text)))


def initramfs_signs(shell: Shell) -> list[str]:
    """Returns every sign of an initramfs: boot entries that load one, messages of a kernel that unpacked one."""
    entries = shell.run(_ASK_BOOT_ENTRIES).lines
    return entries + [message.text for message in messages(shell) if _UNPACKED.search(message.text)]


def parse_boot_entry(name: str, text: str) -> list[str]:
    """Returns the lines of a boot entry that load an initramfs, each behind the name of its file, as grep prints it."""
    return [f"{name}:{line}" for line in text.splitlines() if re.match(rf"\s*{_LOADING}", line, re.IGNORECASE)]


def messages(shell: Shell) -> list[Message]:
    """Returns the messages that the kernel's buffer still holds."""
    return parse_messages(shell.run("dmesg --raw").lines)


def errors(shell: Shell, allowed: Iterable[str]) -> list[str]:
    """Returns the messages of priority error or graver that match none of the allowed regular expressions."""
    harmless = [re.compile(pattern) for pattern in allowed]
    graves = [message.text for message in messages(shell) if message.priority <= _ERROR]
    return [text for text in graves if not any(pattern.search(text) for pattern in harmless)]


def parse_messages(lines: Iterable[str]) -> list[Message]:
    """Reads the lines of `dmesg --raw`: `<N>text`, N being facility × 8 + priority; other lines continue one."""
    found = (re.match(r"<(\d+)>(.*)", line) for line in lines)
    return [Message(priority=int(match[1]) % 8, text=match[2]) for match in found if match]
