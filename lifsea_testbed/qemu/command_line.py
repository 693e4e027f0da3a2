"""The command line of QEMU: a pure function of what the machine is to be.

The machine is an ecs.g7 as seen from inside: i440FX, SeaBIOS, the DMI strings, PCI slots and transitional virtio
devices of an ECS guest (dmidecode, lspci and dmesg of such guests). All its wires are inherited descriptors:
nothing is opened by name but the firmware, and no socket has a name but the metadata service's.
"""

from __future__ import annotations

from dataclasses import dataclass

from lifsea_testbed.disk.image import DiskFormat
from lifsea_testbed.ecs import guest_hardware
from lifsea_testbed.ecs.instance import (
    CLUSTER_ADDRESS,
    CLUSTER_PORT,
    METADATA_ADDRESS,
    MIRROR_ADDRESS,
    NAME_SERVERS,
    PRIVATE_ADDRESS,
    Instance,
)
from lifsea_testbed.ecs.instance_types import DiskLimits
from lifsea_testbed.qemu.accelerator import AcceleratorKind
from lifsea_testbed.qemu.emulator import MACHINE_TYPE, Emulator

#: The port on the virtio console that a shell is opened on, beside Cloud Assistant's.
CHANNEL_PORT = "org.lifsea.testbed.0"
#: The channel's device, as events of the monitor name it.
CHANNEL_DEVICE = "channel-port"
#: The system disk's device, as the monitor names it.
SYSTEM_DISK = "system"
#: The socket of the metadata service, in QEMU's working directory.
METADATA_SOCKET = "metadata"
#: The socket of the repository that the cloud's mirror offers, if the test bed serves one.
REPOSITORY_SOCKET = "repository"
#: The socket that leads to the API server of the machine's cluster, if it is to join one.
CLUSTER_SOCKET = "cluster"
#: The user network, as the monitor names it.
USER_NETWORK = "card"
#: The events of QEMU's trace that tell of reads and writes by the guest (QEMU hw/block/trace-events), in their order:
#: `… vdev ADDRESS … sector N nsectors N`; and of the state of a device, which each driver resets to 0 before it begins
#: (hw/virtio/trace-events): `vdev ADDRESS val N`.
TRACED = ("virtio_blk_handle_read", "virtio_blk_handle_write", "virtio_set_status")
#: The group that throttles all disks together.
THROTTLE_GROUP = "ceiling"
#: QEMU's user network has one queue, whatever the instance type has.
NETWORK_QUEUES = 1

#: Sets of descriptors up to this one are of the image, the overlay, the log and the data disk.
_FIRST_LAYER = 4
_MEMORY = "memory"
_TRANSITIONAL = "disable-modern=off,disable-legacy=off"
#: The last extended leaf of CPUID that an Ice Lake has.
_EXTENDED_LEAVES = 0x80000008
#: How long a burst lasts (seconds). ECS counts credits that nobody has published a figure of; a machine that has just
#: started has them all, and half an hour is longer than any machine of the test bed lives.
_BURST = 1800


@dataclass(frozen=True, kw_only=True)
class Descriptors:
    """The descriptors that QEMU inherits: monitor, ttyS0, Cloud Assistant's port, the channel's, the two disk files.

    With `virtio_console` the machine has an hvc0 as well, which an ecs.g7 has not. `layers` are disks in qcow2 between
    the image and the overlay, the lowest first; with `write_log` each write and flush of the guest is logged there, and
    with `reads` a line for each of its reads; with `counter`, a plugin and its memory, TCG counts. `data` is a
    raw file, for an instance with a data disk. `memory` is a file that the memory of the machine lies in: with `copied`
    it is left as it is, and with `incoming` QEMU waits for a state to go on from.
    """

    monitor: int
    console: int
    assistant: int
    channel: int
    image: int
    overlay: int
    virtio_console: int | None = None
    layers: tuple[int, ...] = ()
    write_log: int | None = None
    reads: int | None = None
    data: int | None = None
    counter: tuple[int, int] | None = None
    memory: int | None = None
    copied: bool = False
    incoming: bool = False


#: How every QEMU of a run is started. The user network starts one relay for each connection to the metadata service and
#: calls setsid in it: so spawn is allowed, and elevateprivileges too, whose filter kills for setsid; setpriv has set
#: no_new_privs before.
PROCESS = (
    "-nodefaults", "-no-user-config", "-S", "-sandbox", "on,obsolete=deny,spawn=allow,resourcecontrol=deny",
    "-display", "none", "-action", "reboot=shutdown,shutdown=poweroff,panic=pause",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class HardwareSpec:
    """What the machine is made of; memory in MiB."""

    emulator: Emulator
    accelerator: AcceleratorKind
    host_is_ice_lake: bool
    instance: Instance
    memory: int
    image_format: DiskFormat


def command(hardware: HardwareSpec, wires: Descriptors) -> list[str]:
    """Returns the command that starts the machine, stopped before its first instruction."""
    return [
        hardware.emulator.binary,
        *PROCESS,
        *_board(hardware),
        *_memory(hardware, wires),
        *_identity(hardware),
        *_consoles(wires),
        *_disk(hardware, wires),
        *_data_disk(hardware.instance, wires.data),
        *_reads(wires.reads),
        *_network(hardware.instance),
        *_counter(wires.counter),
        *(["-incoming", "defer"] if wires.incoming else []),
    ]


def _board(hardware: HardwareSpec) -> list[str]:
    threads = "multi" if hardware.emulator.threads_are_sound else "single"
    accelerator = f"tcg,thread={threads}" if hardware.accelerator is AcceleratorKind.TCG else "kvm"
    topology = hardware.instance.type.topology
    return [
        # The 32-bit entry point is that of SMBIOS 2.8; QEMU since 8.1 takes the one of 3.0 by itself.
        "-machine", f"{MACHINE_TYPE},smbios-entry-point-type=32",
        "-accel", accelerator,
        "-cpu", processor(hardware.accelerator, host_is_ice_lake=hardware.host_is_ice_lake),
        "-smp", f"{hardware.instance.type.cpus},sockets={topology.sockets},cores={topology.cores},"
                f"threads={topology.threads}",
        "-m", str(hardware.memory),
        "-rtc", "base=utc",
        "-device", "piix3-usb-uhci,id=usb,addr=1.2",
        "-device", "usb-tablet,bus=usb.0",
        "-device", "cirrus-vga,addr=2",
        "-device", f"virtio-balloon-pci,addr=6,{_TRANSITIONAL}",
        "-device", "pvpanic",
    ]  # fmt: skip


def _memory(hardware: HardwareSpec, wires: Descriptors) -> list[str]:
    if wires.memory is None:
        return []
    sharing = "share=off,readonly=on,rom=off" if wires.copied else "share=on"
    return [
        "-object", f"memory-backend-file,id={_MEMORY},size={hardware.memory}M,mem-path=/proc/self/fd/{wires.memory},"
                   f"{sharing}",
        "-machine", f"memory-backend={_MEMORY}",
    ]  # fmt: skip


def processor(accelerator: AcceleratorKind, *, host_is_ice_lake: bool) -> str:
    """Returns the CPU option: the processor of an ecs.g7, as near as the host can come.

    TCG and Icelake-Server can be any model; `host` keeps the host's family, model and stepping under another name.
    """
    cpu = guest_hardware.PROCESSOR
    numbers = f"vendor={cpu.vendor},family={cpu.family},model={cpu.model},stepping={cpu.stepping}"
    hidden = ",".join(f"{feature}=off" for feature in sorted(guest_hardware.HIDDEN_FEATURES))
    if accelerator is AcceleratorKind.TCG:
        # Without svm QEMU 7.2 would end the extended leaves before the name and the width of addresses, and a guest's
        # system calls go wrong (seen: mounts that fail, no udev).
        return f"max,{numbers},{hidden},min-xlevel={_EXTENDED_LEAVES:#x},model-id={cpu.name}"
    base = f"Icelake-Server,{numbers}" if host_is_ice_lake else "host"
    return f"{base},{hidden},model-id={cpu.name}"


def _identity(hardware: HardwareSpec) -> list[str]:
    dmi = guest_hardware.dmi(hardware.instance)
    return [
        "-uuid", hardware.instance.uuid,
        "-smbios", f"type=0,vendor={dmi['bios_vendor']},version={dmi['bios_version']},date={dmi['bios_date']}",
        "-smbios", f"type=1,manufacturer={dmi['sys_vendor']},product={dmi['product_name']},"
                   f"version={dmi['product_version']},serial={dmi['product_serial']},uuid={dmi['product_uuid']}",
        "-smbios", f"type=3,manufacturer={dmi['chassis_vendor']}",
        "-smbios", f"type=4,manufacturer={guest_hardware.VENDOR},version={guest_hardware.BOARD}",
    ]  # fmt: skip


def _consoles(wires: Descriptors) -> list[str]:
    return [
        "-chardev", f"socket,id=monitor,fd={wires.monitor}",
        "-mon", "chardev=monitor,mode=control",
        "-chardev", f"socket,id=console,fd={wires.console}",
        "-device", "isa-serial,chardev=console",
        "-device", f"virtio-serial-pci,id=virtio-serial,addr=3,{_TRANSITIONAL}",
        "-chardev", f"socket,id=assistant,fd={wires.assistant}",
        "-device", f"virtserialport,bus=virtio-serial.0,nr=1,chardev=assistant,name={guest_hardware.ASSISTANT_PORT}",
        "-chardev", f"socket,id=channel,fd={wires.channel}",
        "-device", f"virtserialport,bus=virtio-serial.0,nr=2,chardev=channel,id={CHANNEL_DEVICE},name={CHANNEL_PORT}",
        *_virtio_console(wires),
    ]  # fmt: skip


def _virtio_console(wires: Descriptors) -> list[str]:
    if wires.virtio_console is None:
        return []
    return [
        "-chardev", f"socket,id=virtio-console,fd={wires.virtio_console}",
        "-device", "virtconsole,bus=virtio-serial.0,nr=0,chardev=virtio-console",
    ]  # fmt: skip


def _disk(hardware: HardwareSpec, wires: Descriptors) -> list[str]:
    top = f"layer-{len(wires.layers)}" if wires.layers else "image"
    discard = "unmap" if wires.write_log is None else "ignore"
    return [
        "-add-fd", f"fd={wires.image},set=1",
        "-add-fd", f"fd={wires.overlay},set=2",
        "-blockdev", "driver=file,node-name=image-file,filename=/dev/fdset/1,read-only=on,auto-read-only=off",
        "-blockdev", f"driver={hardware.image_format},node-name=image,file=image-file,read-only=on",
        *_layers(wires.layers),
        "-blockdev", f"driver=file,node-name=overlay-file,filename=/dev/fdset/2,discard={discard}",
        "-blockdev", f"driver=qcow2,node-name=overlay,file=overlay-file,backing={top},discard={discard}",
        *_write_log(wires.write_log),
        "-object", throttle(hardware.instance.type.disks),
        "-blockdev", f"driver=throttle,node-name=disk,file={'overlay' if wires.write_log is None else 'logged'},"
                     f"throttle-group={THROTTLE_GROUP},discard=unmap",
        "-device", f"virtio-blk-pci,id={SYSTEM_DISK},drive=disk,addr=4,bootindex=1,{_TRANSITIONAL},"
                   f"serial={hardware.instance.disk_serial}",
    ]  # fmt: skip


def _data_disk(instance: Instance, descriptor: int | None) -> list[str]:
    if descriptor is None:
        return []
    slot = int(guest_hardware.DATA_SLOT.partition(".")[0], 16)
    return [
        "-add-fd", f"fd={descriptor},set={_FIRST_LAYER}",
        "-blockdev", f"driver=file,node-name=data-file,filename=/dev/fdset/{_FIRST_LAYER},discard=unmap",
        "-blockdev", "driver=raw,node-name=data-raw,file=data-file,discard=unmap",
        "-blockdev", f"driver=throttle,node-name=data,file=data-raw,throttle-group={THROTTLE_GROUP},discard=unmap",
        "-device", f"virtio-blk-pci,id=data,drive=data,addr={slot},{_TRANSITIONAL},serial={instance.data_serial}",
    ]  # fmt: skip


def _layers(descriptors: tuple[int, ...]) -> list[str]:
    options: list[str] = []
    for number, descriptor in enumerate(descriptors, start=1):
        below = f"layer-{number - 1}" if number > 1 else "image"
        options += [
            "-add-fd", f"fd={descriptor},set={_FIRST_LAYER + number}",
            "-blockdev", f"driver=file,node-name=layer-file-{number},filename=/dev/fdset/{_FIRST_LAYER + number},"
                         "read-only=on,auto-read-only=off",
            "-blockdev", f"driver=qcow2,node-name=layer-{number},file=layer-file-{number},backing={below},"
                         "read-only=on",
        ]  # fmt: skip
    return options


def _write_log(descriptor: int | None) -> list[str]:
    """Logs above the image format: what is discarded is on record and stays as it is, so that a replay is exact."""
    if descriptor is None:
        return []
    return [
        "-add-fd", f"fd={descriptor},set=3",
        "-blockdev", "driver=file,node-name=log-file,filename=/dev/fdset/3",
        "-blockdev", "driver=blklogwrites,node-name=logged,file=overlay,log=log-file,log-sector-size=512,discard=unmap",
    ]  # fmt: skip


def _reads(descriptor: int | None) -> list[str]:
    if descriptor is None:
        return []
    events = [word for event in TRACED for word in ("-trace", f"enable={event}")]
    return [*events, "-trace", f"file=/dev/fd/{descriptor}"]


def _counter(counter: tuple[int, int] | None) -> list[str]:
    return [] if counter is None else ["-plugin", f"/dev/fd/{counter[0]},memory={counter[1]}"]


def throttle(ceiling: DiskLimits) -> str:
    """Returns the object that holds all disks of a machine to its ceiling together."""
    limits = {"iops-total": (ceiling.operations, ceiling.operations_burst),
              "bps-total": (ceiling.bandwidth, ceiling.bandwidth_burst)}  # fmt: skip
    options = [f"throttle-group,id={THROTTLE_GROUP}"]
    for name, (lasting, burst) in limits.items():
        options.append(f"x-{name}={lasting}")
        options += [f"x-{name}-max={burst},x-{name}-max-length={_BURST}"] if burst > lasting else []
    return ",".join(options)


def _network(instance: Instance) -> list[str]:
    # restrict: the guest reaches these services and nothing else, neither the host nor any network.
    services = "".join(f",guestfwd=tcp:{server}-cmd:socat - UNIX-CONNECT:{socket}" for server, socket in (
        (f"{METADATA_ADDRESS}:80", METADATA_SOCKET), (f"{MIRROR_ADDRESS}:80", REPOSITORY_SOCKET),
        (f"{CLUSTER_ADDRESS}:{CLUSTER_PORT}", CLUSTER_SOCKET)))  # fmt: skip
    return [
        "-netdev", f"user,id={USER_NETWORK},restrict=on,net=100.100.0.0/16,host=100.100.0.2,"
                   f"dns={NAME_SERVERS[0]},dhcpstart={PRIVATE_ADDRESS}{services}",
        "-device", f"virtio-net-pci,netdev={USER_NETWORK},addr=5,mac={instance.mac},romfile=,{_TRANSITIONAL}",
    ]  # fmt: skip
