"""What a disk boots next: an entry of systemd-boot or of GRUB, or a slot by priority or by the order of RAUC."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from lifsea_testbed.disk.boot_entries import BootEntry, first, parse_entry, unified
from lifsea_testbed.disk.filesystem import Tree
from lifsea_testbed.disk.mounts import Volume, named, normal_name, text
from lifsea_testbed.disk.partitions import ESP, XBOOTLDR, Partition
from lifsea_testbed.support.lines import split_lines

#: Where systemd-boot has its files on an ESP; one of them is enough to know it.
_SYSTEMD_BOOT = ("/loader/loader.conf", "/loader/entries.srel", "/EFI/systemd/systemd-bootx64.efi")
_UNIFIED = "/EFI/Linux/*.efi"
_ENTRIES = ("/loader/entries/*.conf", "/boot/loader/entries/*.conf")
_GRUBENV = ("/grub*/grubenv", "/boot/grub*/grubenv", "/EFI/*/grubenv", "/grubenv")
#: Partitions that carry a priority, by type, and how many partitions behind them lies what they boot: the kernels of
#: ChromeOS, /boot of Bottlerocket (its grub.cfg: PARTNROFF=1), /usr of Flatcar and others of CoreOS's line.
_PRIORITISED = {
    "fe3a2a5d-4f32-41a7-b725-accc3285a309": 1,
    "6b636168-7420-6568-2070-6c616e657421": 1,
    "5dfbf5f4-2848-4bac-aa5e-0d9a20b745a6": 0,
}
_RAUC = "/etc/rauc/system.conf"
_SECTION = re.compile(r"\[(.+)\]")


@dataclass(frozen=True, kw_only=True)
class BootChoice:
    """The boot entry that comes first, and the volume that it lies on."""

    volume: Volume
    entry: BootEntry


def next_entry(volumes: Sequence[Volume]) -> BootChoice | None:
    """Returns the boot entry that comes first, or None where no volume has one.

    Where systemd-boot is on an ESP, entries are those on ESP and XBOOTLDR, with the default of its loader.conf; else
    those of the first volume that has some, with the choice in GRUB's environment. Variables of the firmware are not
    on the disk, and count as not set.
    """
    loaders = [volume for volume in volumes if volume.partition.kind in (ESP, XBOOTLDR)]
    if any(_has_systemd_boot(volume.tree) for volume in loaders):
        return _chosen(loaders, [*_defaults(loaders)])
    wanted = _saved(volumes)
    return next((choice for volume in volumes if (choice := _chosen([volume], wanted))), None)


def prioritised(partitions: Sequence[Partition]) -> int | None:
    """Returns the number of the partition that boots by the priorities in a GPT, or None where it has none.

    Attributes of the type (ChromiumOS, "Disk Format"): bits 48 to 51 a priority, 52 to 55 tries left, 56 successful.
    Without a priority, or without a try and a success, a partition does not boot.
    """
    rows = [(row.attributes >> 48 & 15, -row.number, row) for row in partitions if row.kind in _PRIORITISED
            and row.attributes >> 48 & 15 and row.attributes >> 52 & 31]  # fmt: skip
    if not rows:
        return None
    best = max(rows, key=lambda row: row[:2])[2]
    return best.number + _PRIORITISED[best.kind]


def ordered_slot(volumes: Sequence[Volume], roots: Sequence[Volume]) -> Volume | None:
    """Returns the root that RAUC boots next: that of the first slot in GRUB's environment that is good and not tried.

    RAUC's configuration on one of the roots says which device is whose (RAUC's manual, "GRUB", "System
    Configuration"). None where there is no such environment, or no slot is left.
    """
    environment = _environment(volumes)
    order = [slot for slot in environment.get("ORDER", "").split()
             if environment.get(f"{slot}_OK") == "1" and environment.get(f"{slot}_TRY", "0") == "0"]  # fmt: skip
    configuration = next((found for root in roots if (found := text(root.tree, _RAUC))), None)
    if not order or configuration is None:
        return None
    names = named(volumes)
    devices = [names.get(normal_name(device)) for device in _devices(_sections(configuration), order[0])]
    return next((root for root in roots if any(root is device for device in devices)), None)


def _chosen(volumes: Sequence[Volume], wanted: Sequence[str]) -> BootChoice | None:
    found = [(entry, volume) for volume in volumes for entry in _entries(volume.tree)]
    chosen = first((entry for entry, _ in found), wanted)
    return next((BootChoice(volume=volume, entry=entry) for entry, volume in found if entry is chosen), None)


def _entries(tree: Tree) -> Iterator[BootEntry]:
    for path in (path for pattern in _ENTRIES for path in tree.glob(pattern)):
        yield parse_entry(path.name, text(tree, path) or "")
    for path in tree.glob(_UNIFIED):
        place = tree.find(path)
        if place and place.is_regular and (entry := unified(path.name, place)):
            yield entry


def _has_systemd_boot(tree: Tree) -> bool:
    return any(map(tree.find, _SYSTEMD_BOOT)) or bool(tree.glob(_UNIFIED))


def _defaults(volumes: Sequence[Volume]) -> Iterator[str]:
    """The patterns of loader.conf(5), `preferred` before `default`; those that name a variable choose nothing."""
    for volume in volumes:
        rows = [line.split(None, 1) for line in split_lines(text(volume.tree, "/loader/loader.conf") or "")]
        values = {row[0]: row[1].strip() for row in rows if len(row) == 2}
        yield from (values[key] for key in ("preferred", "default") if not values.get(key, "@").startswith("@"))


def _saved(volumes: Sequence[Volume]) -> list[str]:
    environment = _environment(volumes)
    return [value for key in ("next_entry", "saved_entry") if (value := environment.get(key, ""))]


def _environment(volumes: Sequence[Volume]) -> dict[str, str]:
    """GRUB's environment block (GRUB manual, "The GRUB environment block"), the first that has something in it."""
    for volume in volumes:
        for path in (path for pattern in _GRUBENV for path in volume.tree.glob(pattern)):
            lines = split_lines(text(volume.tree, path) or "")
            if values := dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#")):
                return values
    return {}


def _sections(configuration: str) -> dict[str, dict[str, str]]:
    """The sections of an .ini file with their values."""
    found: dict[str, dict[str, str]] = {}
    section: dict[str, str] = {}
    for line in map(str.strip, split_lines(configuration)):
        if heading := _SECTION.fullmatch(line):
            section = found.setdefault(heading[1], {})
        elif "=" in line and not line.startswith("#"):
            key, value = line.split("=", 1)
            section[key.strip()] = value.strip()
    return found


def _devices(sections: dict[str, dict[str, str]], bootname: str) -> list[str]:
    """The devices of the slots that belong together under that name of the boot loader's."""
    slots = {name.removeprefix("slot."): values for name, values in sections.items() if name.startswith("slot.")}
    own = {name for name, values in slots.items() if values.get("bootname") == bootname}
    own |= {slots[name].get("parent", "") for name in own}
    return [values.get("device", "") for name, values in slots.items() if name in own or values.get("parent") in own]


def is_free(label: str) -> bool:
    """Returns whether a partition's name is that of a slot to be filled (systemd-sysupdate, `_empty`)."""
    return PurePosixPath(label).name == "_empty"
