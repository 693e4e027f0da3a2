"""The signs of an initramfs: in boot entries, in unified kernel images, in what the boot left behind."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from pathlib import PurePosixPath

from lifsea_testbed.disk import pe
from lifsea_testbed.support.lines import split_lines

#: The directories that boot loaders read, with all that is mounted below them.
PLACES = ("/boot", "/efi")
#: The files there in which boot loaders keep their entries.
ENTRIES = (
    "loader*/entries/*.conf", "grub*/*.cfg", "grub*/grubenv", "EFI/*/*.cfg", "EFI/*/grubenv", "extlinux/*.conf",
    "syslinux/*.cfg", "refind*.conf", "limine.conf",
)  # fmt: skip
#: A line that loads an initramfs: by the loader's own command, or by an argument of the kernel or of its EFI stub.
_LINE = "^[ \t]*initrd(efi|16)?([ \t=]|$)|^([^#]*[ \t\"'=])?initrd="
_LOADING = re.compile(_LINE, re.IGNORECASE)
#: What the kernel logs of it (init/initramfs.c, init/main.c); the last stands for one that is built into the kernel.
MESSAGES = re.compile(r"Unpacking initramfs|Trying to unpack rootfs image as initramfs|Freeing initrd memory|"
                      r"Run /init as init process")  # fmt: skip
#: The section of an initramfs.
_SECTION = ".initrd"
# Lines of the boot loaders' files. The size of the ramdisk that the boot loader passed to the kernel, in the field
# ramdisk_size (Documentation/arch/x86/boot.rst). Arguments. When systemd ran in an initramfs, 0 for never
# (org.freedesktop.systemd1(5)).
SCRIPT = f"""
for place in {" ".join(PLACES)}; do
    [ -d $place ] && grep -r -I -H -i -E -s -e {shlex.quote(_LINE)} $place
done
size=$(od -An -tu4 -j540 -N4 /sys/kernel/boot_params/data 2>/dev/null | tr -d ' ')
[ "${{size:-0}}" = 0 ] || echo "the boot loader passed an initramfs of $size bytes"
tr ' ' '\\n' </proc/cmdline | grep -E '^(initrd|rdinit)=' | sed 's/^/kernel command line: /'
systemctl show --property=InitRDTimestampMonotonic 2>/dev/null | grep -v '=0*$' | sed 's/^/systemd: /'
exit 0
"""
# The files of those directories, each name before the start of its content in hexadecimal digits, if it is a PE file.
UNIFIED = f"""
for place in {" ".join(PLACES)}; do [ ! -d $place ] || find $place -type f -size +0 -print0; done | xargs -0 -r sh -c '
for file; do
    [ "$(head -c 2 "$file" | od -An -tx1 | tr -d " ")" = 4d5a ] || continue
    printf "%s\\\\n" "$file"
    od -An -v -tx1 -N{pe.HEAD} "$file" | tr -d " \\\\n"
    printf "\\\\0"
done' sh"""


def parse_entry(name: str, text: str) -> list[str]:
    """Returns the lines of a boot loader's file that load an initramfs, each after its name, as grep prints it."""
    return [f"{name}:{line}" for line in split_lines(text) if _LOADING.search(line)]


def parse_unified(output: str) -> list[str]:
    """Returns the unified kernel images that hold an initramfs, of the output of UNIFIED."""
    rows = (part.partition("\n") for part in output.split("\0") if part)
    return unified((name, bytes.fromhex(digits)) for name, _, digits in rows
                   if re.fullmatch(r"(?:[0-9a-f]{2})+", digits))  # fmt: skip


def unified(starts: Iterable[tuple[str, bytes]]) -> list[str]:
    """Returns the unified kernel images that hold an initramfs, of files with their names and starts."""
    return [f"{name}: a unified kernel image with an initramfs" for name, start in starts if holds_initramfs(start)]


def holds_initramfs(start: bytes) -> bool:
    """Returns whether a file, by its start, is a PE file with an initramfs among its sections (UAPI.5, UKI)."""
    return _SECTION in pe.sections(start)


def is_entry(path: PurePosixPath) -> bool:
    """Returns whether a file is one in which a boot loader keeps its entries, by its path."""
    folded = PurePosixPath(str(path).lower())  # as FAT has it
    return any(folded.match(pattern.lower()) for pattern in ENTRIES)
