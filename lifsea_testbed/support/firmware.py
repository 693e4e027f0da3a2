"""The firmware of an instance, and which one a disk is made for."""

from __future__ import annotations

import enum
from dataclasses import dataclass

#: What UEFI boots from a disk that it does not know (UEFI specification 2.10, 3.5.1.1), on the ESP.
DEFAULT_LOADER = "/EFI/BOOT/BOOTX64.EFI"
_SHOWN = DEFAULT_LOADER.replace("/", "\\")


class Firmware(enum.StrEnum):
    """The firmware that an instance starts with (the boot mode of an ECS instance), and whether it verifies signatures.

    With UEFI_SECURE the keys of Microsoft are enrolled and Secure Boot is on.
    """

    BIOS = "bios"
    UEFI = "uefi"
    UEFI_SECURE = "uefi-secure"

    @property
    def is_uefi(self) -> bool:
        """Whether it is UEFI, which keeps variables over reboots."""
        return self is not Firmware.BIOS


@dataclass(frozen=True, kw_only=True)
class BootLoaders:
    """What a disk has for each firmware to boot.

    `code` is whether its first sector holds code, which a BIOS runs; `place_for_bios` whether there is a place for what
    that code loads: with a GPT, a BIOS boot partition. `default_loader` is the number of a partition with UEFI's
    default loader, 0 if there is none; `unread` is why an ESP could not be searched for it.
    """

    code: bool
    place_for_bios: bool
    default_loader: int
    unread: str = ""

    def lacks(self, firmware: Firmware) -> str:
        """Returns why the disk cannot be booted by that firmware; empty if nothing is known against it."""
        if firmware is Firmware.BIOS:
            return "" if self.code else "its first sector holds no boot code"
        return "" if self.default_loader or self.unread else f"no partition has UEFI's default loader, {_SHOWN}"

    def choice(self) -> tuple[Firmware, str]:
        """Returns the firmware that the disk is made for, and what tells so; of both BIOS, ECS's default boot mode."""
        uefi = f"partition {self.default_loader} has {_SHOWN}"
        if self.code and (self.place_for_bios or not self.default_loader):
            return Firmware.BIOS, f"its disk has boot code{'; ' + uefi if self.default_loader else ''}"
        if self.default_loader:
            return Firmware.UEFI, f"{uefi}, and a BIOS would find nothing"
        return (Firmware.UEFI, f"no boot code; {self.unread}") if self.unread else (Firmware.BIOS, "")
