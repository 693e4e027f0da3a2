"""The command line of QEMU: a pure function of what the machine is to be.

The machine is an ecs.g7 as seen from inside: i440FX, SeaBIOS, the DMI strings, PCI slots and transitional virtio
devices of an ECS guest (dmidecode, lspci and dmesg of such guests). All its wires are inherited descriptors:
nothing is opened by name but the firmware, and no socket has a name but the metadata service's.
"""

from __future__ import annotations

from dataclasses import dataclass

from lifsea_testbed.ecs.instance import METADATA_ADDRESS, NAME_SERVERS, PRIVATE_ADDRESS, Instance
from lifsea_testbed.image import DiskFormat
from lifsea_testbed.qemu.accelerator import Kind
from lifsea_testbed.qemu.emulator import MACHINE_TYPE, Emulator

#: The names of the two ports on the virtio console: Cloud Assistant's, and the one a shell is opened on.
ASSISTANT_PORT = "org.qemu.guest_agent.0"
CHANNEL_PORT = "org.lifsea.testbed.0"
#: The channel's device, as events of the monitor name it.
CHANNEL_DEVICE = "channel-port"
#: The socket of the metadata service, in QEMU's working directory.
METADATA_SOCKET = "metadata"

_MODEL = "Intel(R) Xeon(R) Platinum 8369B CPU @ 2.70GHz"
_TRANSITIONAL = "disable-modern=off,disable-legacy=off"
_FIRMWARE_REVISION = "449e491"


@dataclass(frozen=True, kw_only=True)
class Wires:
    """The descriptors that QEMU inherits: monitor, ttyS0, Cloud Assistant's port, the channel's, the two disk files.

    With `virtio_console` the machine has an hvc0 as well, which an ecs.g7 has not.
    """

    monitor: int
    console: int
    assistant: int
    channel: int
    image: int
    overlay: int
    virtio_console: int | None = None


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What the machine is made of; memory in MiB."""

    emulator: Emulator
    accelerator: Kind
    host_is_ice_lake: bool
    instance: Instance
    memory: int
    image_format: DiskFormat


def command(hardware: Hardware, wires: Wires) -> list[str]:
    """Returns the command that starts the machine, stopped before its first instruction."""
    return [
        hardware.emulator.binary,
        *_process(),
        *_board(hardware),
        *_identity(hardware),
        *_consoles(wires),
        *_disk(hardware, wires),
        *_network(hardware.instance),
    ]


def _process() -> list[str]:
    # The user network starts one relay for each connection to the metadata service and calls setsid in it: so spawn
    # is allowed, and elevateprivileges too, whose filter kills for setsid; setpriv has set no_new_privs before.
    sandbox = "on,obsolete=deny,spawn=allow,resourcecontrol=deny"
    return [
        "-nodefaults", "-no-user-config", "-S", "-sandbox", sandbox, "-display", "none",
        "-action", "reboot=shutdown,shutdown=poweroff,panic=pause",
    ]  # fmt: skip


def _board(hardware: Hardware) -> list[str]:
    threads = "multi" if hardware.emulator.threads_are_sound else "single"
    accelerator = f"tcg,thread={threads}" if hardware.accelerator is Kind.TCG else "kvm"
    cpus = hardware.instance.type.cpus
    return [
        "-machine", MACHINE_TYPE,
        "-accel", accelerator,
        "-cpu", processor(hardware.accelerator, host_is_ice_lake=hardware.host_is_ice_lake),
        "-smp", f"{cpus},sockets=1,cores={cpus // 2},threads=2",
        "-m", str(hardware.memory),
        "-rtc", "base=utc",
        "-device", "piix3-usb-uhci,id=usb,addr=1.2",
        "-device", "usb-tablet,bus=usb.0",
        "-device", "cirrus-vga,addr=2",
        "-device", f"virtio-balloon-pci,addr=6,{_TRANSITIONAL}",
        "-device", "pvpanic",
    ]  # fmt: skip


def processor(accelerator: Kind, *, host_is_ice_lake: bool) -> str:
    """Returns the CPU option: a Xeon Platinum 8369B (family 6, model 106, stepping 6), as near as the host can come."""
    if accelerator is Kind.TCG:
        return f"max,vendor=GenuineIntel,family=6,model=106,stepping=6,model-id={_MODEL}"
    base = "Icelake-Server" if host_is_ice_lake else "host"
    return f"{base},vmx=off,model-id={_MODEL}"


def _identity(hardware: Hardware) -> list[str]:
    instance = hardware.instance
    return [
        "-uuid", instance.uuid,
        "-smbios", f"type=0,vendor=SeaBIOS,version={_FIRMWARE_REVISION},date=04/01/2014",
        "-smbios", "type=1,manufacturer=Alibaba Cloud,product=Alibaba Cloud ECS,version=pc-i440fx-2.1,"
                   f"serial={instance.uuid},uuid={instance.uuid}",
        "-smbios", "type=3,manufacturer=Alibaba Cloud",
        "-smbios", "type=4,manufacturer=Alibaba Cloud,version=pc-i440fx-2.1",
    ]  # fmt: skip


def _consoles(wires: Wires) -> list[str]:
    return [
        "-chardev", f"socket,id=monitor,fd={wires.monitor}",
        "-mon", "chardev=monitor,mode=control",
        "-chardev", f"socket,id=console,fd={wires.console}",
        "-device", "isa-serial,chardev=console",
        "-device", f"virtio-serial-pci,id=virtio-serial,addr=3,{_TRANSITIONAL}",
        "-chardev", f"socket,id=assistant,fd={wires.assistant}",
        "-device", f"virtserialport,bus=virtio-serial.0,nr=1,chardev=assistant,name={ASSISTANT_PORT}",
        "-chardev", f"socket,id=channel,fd={wires.channel}",
        "-device", f"virtserialport,bus=virtio-serial.0,nr=2,chardev=channel,id={CHANNEL_DEVICE},name={CHANNEL_PORT}",
        *_virtio_console(wires),
    ]  # fmt: skip


def _virtio_console(wires: Wires) -> list[str]:
    if wires.virtio_console is None:
        return []
    return [
        "-chardev", f"socket,id=virtio-console,fd={wires.virtio_console}",
        "-device", "virtconsole,bus=virtio-serial.0,nr=0,chardev=virtio-console",
    ]  # fmt: skip


def _disk(hardware: Hardware, wires: Wires) -> list[str]:
    return [
        "-add-fd", f"fd={wires.image},set=1",
        "-add-fd", f"fd={wires.overlay},set=2",
        "-blockdev", "driver=file,node-name=image-file,filename=/dev/fdset/1,read-only=on,auto-read-only=off",
        "-blockdev", f"driver={hardware.image_format},node-name=image,file=image-file,read-only=on",
        "-blockdev", "driver=file,node-name=overlay-file,filename=/dev/fdset/2,discard=unmap",
        "-blockdev", "driver=qcow2,node-name=disk,file=overlay-file,backing=image,discard=unmap",
        "-device", f"virtio-blk-pci,id=system,drive=disk,addr=4,bootindex=1,{_TRANSITIONAL},"
                   f"serial={hardware.instance.disk_serial}",
    ]  # fmt: skip


def _network(instance: Instance) -> list[str]:
    # restrict: the guest reaches the metadata service and nothing else, neither the host nor any network.
    relay = f"socat - UNIX-CONNECT:{METADATA_SOCKET}"
    return [
        "-netdev", "user,id=card,restrict=on,net=100.100.0.0/16,host=100.100.0.2,"
                   f"dns={NAME_SERVERS[0]},dhcpstart={PRIVATE_ADDRESS},"
                   f"guestfwd=tcp:{METADATA_ADDRESS}:80-cmd:{relay}",
        "-device", f"virtio-net-pci,netdev=card,addr=5,mac={instance.mac},romfile=,{_TRANSITIONAL}",
    ]  # fmt: skip
