"""The hardware that a guest sees on an ecs.g7 of any size: CPU, firmware tables and devices.

Source: dmidecode, lspci, lscpu and dmesg of ECS guests; the CPU is that of an ecs.g7.2xlarge.
"""

from __future__ import annotations

from dataclasses import dataclass

from lifsea_testbed.ecs.instance import Instance


@dataclass(frozen=True, kw_only=True)
class Processor:
    """A CPU model as reported by CPUID."""

    name: str
    vendor: str
    family: int
    model: int
    stepping: int


@dataclass(frozen=True, kw_only=True)
class PciDevice:
    """A PCI device: vendor, device and class (class, subclass, programming interface), as in the PCI ID database."""

    vendor: int
    device: int
    kind: int


@dataclass(frozen=True, kw_only=True)
class SerialPort:
    """A serial port: I/O address, interrupt, and the kernel's number of the chip (serial_core.h)."""

    address: int
    interrupt: int
    chip: int


PROCESSOR = Processor(name="Intel(R) Xeon(R) Platinum 8369B CPU @ 2.70GHz", vendor="GenuineIntel",
                      family=6, model=106, stepping=6)  # fmt: skip
#: CPU features that a guest must not see: an ecs.g7 has no nested virtualization.
HIDDEN_FEATURES = frozenset({"svm", "vmx"})
#: CPU features that Intel disabled on Ice Lake by microcode: transactional memory (TSX).
DISABLED_FEATURES = frozenset({"hle", "rtm"})
#: CPU features that are new in Ice Lake servers, by the kernel's names, and AVX-512F.
ICE_LAKE_FEATURES = frozenset({"avx512f", "avx512_vbmi2", "avx512_vnni", "gfni", "vaes"})
#: SeaBIOS as ECS builds it; UEFI, of which ECS guests report version 0.0.0, with what edk2's OvmfPkg/SmbiosPlatformDxe
#: said beside that version until 2023: vendor, version, date.
BIOS = ("SeaBIOS", "449e491", "04/01/2014")
UEFI = ("EFI Development Kit II / OVMF", "0.0.0", "02/06/2015")
VENDOR, PRODUCT, BOARD = "Alibaba Cloud", "Alibaba Cloud ECS", "pc-i440fx-2.1"
#: The version of the SMBIOS tables.
SMBIOS = "2.8"
#: ttyS0: COM1 of a PC, a 16550A (PORT_16550A is 4).
CONSOLE = SerialPort(address=0x3F8, interrupt=4, chip=4)
#: The virtio-serial port of Cloud Assistant.
ASSISTANT_PORT = "org.qemu.guest_agent.0"
MTU = 1500

_INTEL, _CIRRUS, _VIRTIO = 0x8086, 0x1013, 0x1AF4
#: PCI slot → device: board, display, then console, disk, NIC and balloon as transitional virtio devices.
PCI = {
    "00.0": PciDevice(vendor=_INTEL, device=0x1237, kind=0x060000),
    "01.0": PciDevice(vendor=_INTEL, device=0x7000, kind=0x060100),
    "01.1": PciDevice(vendor=_INTEL, device=0x7010, kind=0x010180),
    "01.2": PciDevice(vendor=_INTEL, device=0x7020, kind=0x0C0300),
    "01.3": PciDevice(vendor=_INTEL, device=0x7113, kind=0x068000),
    "02.0": PciDevice(vendor=_CIRRUS, device=0x00B8, kind=0x030000),
    "03.0": PciDevice(vendor=_VIRTIO, device=0x1003, kind=0x078000),
    "04.0": PciDevice(vendor=_VIRTIO, device=0x1001, kind=0x010000),
    "05.0": PciDevice(vendor=_VIRTIO, device=0x1000, kind=0x020000),
    "06.0": PciDevice(vendor=_VIRTIO, device=0x1002, kind=0x00FF00),
}
#: The slot of the data disk, if the instance has one.
DATA_SLOT = "07.0"
#: PCI slot → number of the virtio device (virtio specification, 5: 1 network, 2 block, 3 console, 5 balloon).
VIRTIO = {"03.0": 3, "04.0": 2, "05.0": 1, "06.0": 5}
CARD_SLOT = "05.0"


def pci(instance: Instance) -> dict[str, PciDevice]:
    """Returns the device in each PCI slot of that instance."""
    return {**PCI, DATA_SLOT: PCI["04.0"]} if instance.data_disk else PCI


def virtio(instance: Instance) -> dict[str, int]:
    """Returns the number of the virtio device in each PCI slot of that instance."""
    return {**VIRTIO, DATA_SLOT: VIRTIO["04.0"]} if instance.data_disk else VIRTIO


def firmware_memory(instance: Instance) -> int:
    """Returns the MiB of which firmware keeps fewer than that for its tables: SeaBIOS up to 2, edk2's OVMF 7 (seen)."""
    return 8 if instance.firmware.is_uefi else 3


def dmi(instance: Instance) -> dict[str, str]:
    """Returns the DMI strings, by their names in the kernel's /sys/class/dmi/id; chassis type 1 is "other"."""
    vendor, version, date = UEFI if instance.firmware.is_uefi else BIOS
    return {
        "bios_vendor": vendor,
        "bios_version": version,
        "bios_date": date,
        "sys_vendor": VENDOR,
        "product_name": PRODUCT,
        "product_version": BOARD,
        "product_serial": instance.uuid,
        "product_uuid": instance.uuid,
        "chassis_vendor": VENDOR,
        "chassis_type": "1",
    }
