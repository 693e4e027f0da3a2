"""Hardware fidelity: the differences between a machine on this host and the instance that the cloud sells."""

from __future__ import annotations

from dataclasses import dataclass

from lifsea_testbed.qemu import command_line
from lifsea_testbed.qemu.accelerator import AcceleratorKind


@dataclass(frozen=True, kw_only=True)
class HardwareFidelity:
    """The limits that the host puts on a machine.

    `hardware_speed`: the guest runs at the speed of hardware, so that wall-clock times mean something (under KVM, not
    under emulation). `all_features`: the processor has every feature of an Ice Lake (not under emulation, nor on an
    older host). `exact_model`: its family, model and stepping are an Ice Lake's, not an older host's. `memory` (MiB) is
    the instance type's, or less if the host has not enough. `network_queues` is the number of queues of a NIC.
    """

    hardware_speed: bool
    all_features: bool
    exact_model: bool
    memory: int
    network_queues: int

    @classmethod
    def of(cls, hardware: command_line.HardwareSpec) -> HardwareFidelity:
        """Returns the fidelity of that hardware."""
        is_kvm = hardware.accelerator is AcceleratorKind.KVM
        return cls(hardware_speed=is_kvm, all_features=is_kvm and hardware.host_is_ice_lake,
                   exact_model=not is_kvm or hardware.host_is_ice_lake, memory=hardware.memory,
                   network_queues=command_line.NETWORK_QUEUES)  # fmt: skip
