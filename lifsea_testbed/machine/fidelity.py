"""How far a machine is what is sold, and what of it this host cannot show."""

from __future__ import annotations

from lifsea_testbed.ecs.instance import TIME_SERVERS
from lifsea_testbed.qemu import command_line
from lifsea_testbed.qemu.accelerator import AcceleratorKind


class AsSold:
    """What tests have to know of the hardware that a machine was given."""

    _hardware: command_line.HardwareSpec

    @property
    def runs_at_hardware_speed(self) -> bool:
        """Whether a wall clock says something of the guest: under KVM it does, under emulation it does not."""
        return self._hardware.accelerator is AcceleratorKind.KVM

    @property
    def memory(self) -> int:
        """The memory that the machine was given (MiB): its type's, or what the host had left."""
        return self._hardware.memory

    @property
    def network_queues(self) -> int:
        """How many queues of a network card can be shown on this host."""
        return command_line.NETWORK_QUEUES

    @property
    def has_every_feature(self) -> bool:
        """Whether the processor can do all that an Ice Lake does: under emulation, or on an older host, it cannot."""
        return self.runs_at_hardware_speed and self._hardware.host_is_ice_lake

    @property
    def has_its_model_number(self) -> bool:
        """Whether the processor's family, model and stepping are an Ice Lake's and not those of an older host."""
        return not self.runs_at_hardware_speed or self._hardware.host_is_ice_lake

    @property
    def time_servers(self) -> tuple[str, ...]:
        """The time servers that the metadata service gives."""
        return TIME_SERVERS
