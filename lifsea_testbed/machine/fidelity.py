"""Hardware fidelity: the differences between a machine on this host and the instance that the cloud sells."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lifsea_testbed.qemu import command_line, processor
from lifsea_testbed.support.firmware import Firmware

_VULNERABILITIES = Path("/sys/devices/system/cpu/vulnerabilities")
#: What ARCH_CAPABILITIES of Icelake-Server v3 and later declare (QEMU, target/i386/cpu.c: rdctl-no, mds-no, taa-no), by
#: the kernel's names (Linux, arch/x86/kernel/cpu/common.c: RDCL_NO rules out L1TF as well).
_DECLARED = frozenset({"meltdown", "l1tf", "mds", "tsx_async_abort"})


@dataclass(frozen=True, kw_only=True)
class HardwareFidelity:
    """The limits that the host puts on a machine.

    `hardware_speed`: the guest runs at the speed of an ecs.g7, so that wall-clock times mean something (not under
    emulation, nor on a host that is slower or faster). `all_features`: the processor has every feature of an Ice Lake
    (not under emulation, nor on an older host). `exact_model`: its family, model and stepping are an Ice Lake's, not
    the host's. `not_affected` are the vulnerabilities, by the kernel's names, that an Ice Lake declares not to be
    affected by and that the host is not affected by either. `memory` (MiB) is the instance type's, or less if the host
    has not enough. `network_queues` is the number of queues of a NIC. `known_board`: its board is an ecs.g7's; that of
    an instance with Secure Boot is not known, and here it is QEMU's q35.
    """

    hardware_speed: bool
    all_features: bool
    exact_model: bool
    not_affected: frozenset[str]
    memory: int
    network_queues: int
    known_board: bool

    @classmethod
    def of(cls, hardware: command_line.HardwareSpec) -> HardwareFidelity:
        """Returns the fidelity of that hardware."""
        accelerator = hardware.accelerator
        is_ice_lake = processor.is_ice_lake(accelerator.cpu_model)
        return cls(hardware_speed=not accelerator.other_pace, all_features=is_ice_lake,
                   exact_model=accelerator.cpu_model not in processor.HOSTS_OWN,
                   not_affected=not_affected() & _DECLARED, memory=hardware.memory,
                   network_queues=command_line.NETWORK_QUEUES,
                   known_board=hardware.instance.firmware is not Firmware.UEFI_SECURE)  # fmt: skip


def not_affected(directory: Path = _VULNERABILITIES) -> frozenset[str]:
    """Returns the vulnerabilities of processors that this host's kernel says it is not affected by."""
    return frozenset(path.name for path in directory.glob("*") if path.read_text("ascii").strip() == "Not affected")
