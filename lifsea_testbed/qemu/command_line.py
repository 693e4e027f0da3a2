"""The command line of QEMU: a pure function of the machine's hardware and of the inherited descriptors.

The machine is an ecs.g7 as seen from inside: i440FX, SeaBIOS or UEFI, the DMI strings, PCI slots and transitional
virtio devices of an ECS guest (dmidecode, lspci and dmesg of such guests). Its connections are inherited descriptors:
QEMU opens only its own SeaBIOS by name, and only the sockets of the services in its working directory have names.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from lifsea_testbed.disk.image_formats import DiskFormat
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
from lifsea_testbed.qemu import processor
from lifsea_testbed.qemu.accelerator import Accelerator, AcceleratorKind
from lifsea_testbed.qemu.emulator import MACHINE_TYPE, SECURE_MACHINE_TYPE, Emulator
from lifsea_testbed.qemu.firmware import FirmwareFiles
from lifsea_testbed.support.firmware import Firmware

#: The virtio-serial port of the command channel, beside Cloud Assistant's.
CHANNEL_PORT = "org.lifsea.testbed.0"
#: The device of that port, as in events of the monitor.
CHANNEL_DEVICE = "channel-port"
#: The device of the system disk, as in the monitor.
SYSTEM_DISK = "system"
#: The socket of the metadata service, in QEMU's working directory.
METADATA_SOCKET = "metadata"
#: The socket of the repository at the address of the cloud's mirror, if the test bed serves one.
REPOSITORY_SOCKET = "repository"
#: The socket of the relay to the API server of the machine's cluster, if it joins one.
CLUSTER_SOCKET = "cluster"
#: The user network, as in the monitor.
USER_NETWORK = "card"
#: The hub that joins the NIC, the user network and the time servers of a machine that has those, and their network.
HUB = 0
TIME_NETWORK = "time"
#: The trace events of QEMU for reads and writes by the guest (QEMU hw/block/trace-events), in this form:
#: `… vdev ADDRESS … sector N nsectors N`; and for the status of a device, which each driver first resets to 0
#: (hw/virtio/trace-events): `vdev ADDRESS val N`.
TRACED = ("virtio_blk_handle_read", "virtio_blk_handle_write", "virtio_set_status")
#: The throttle group of all disks.
THROTTLE_GROUP = "ceiling"
#: QEMU's user network has one queue, for every instance type.
NETWORK_QUEUES = 1

#: The descriptor sets of the image, the overlay, the write log, the data disk, the firmware's code and its variables;
#: those of the layers follow.
_IMAGE_SET, _OVERLAY_SET, _LOG_SET, _DATA_SET, _CODE_SET, _VARIABLES_SET = range(1, 7)
_MEMORY = "memory"
_TRANSITIONAL = "disable-modern=off,disable-legacy=off"
#: How long a burst lasts (seconds). ECS counts credits without publishing the numbers; a machine that has just started
#: has all of them, and half an hour is longer than the life of any machine of the test bed.
_BURST = 1800


@dataclass(frozen=True, kw_only=True)
class Descriptors:
    """The descriptors that QEMU inherits: monitor, ttyS0, Cloud Assistant's port, the channel's, the two disk files.

    With `virtio_console` the machine also has hvc0, which an ecs.g7 lacks. `layers` are qcow2 disks between the image
    and the overlay, the lowest first. Each write and flush of the guest is logged to `write_log`, each read to `reads`.
    `counter` is the counting plugin and its memory (TCG only). `data` is the raw file of a data disk. `firmware` are
    the code of UEFI and its variables. `memory` is the file with the machine's memory: with `copied` it is mapped
    privately, and with `incoming` QEMU waits for the state of the devices.
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
    firmware: tuple[int, int] | None = None
    counter: tuple[int, int] | None = None
    memory: int | None = None
    copied: bool = False
    incoming: bool = False


#: The options of every QEMU of a run. The user network starts a process for each connection to a service and calls
#: setsid in it: so `spawn` is allowed, and `elevateprivileges` is not denied, because that filter kills on setsid;
#: setpriv has set no_new_privs before.
PROCESS = (
    "-nodefaults", "-no-user-config", "-S", "-sandbox", "on,obsolete=deny,spawn=allow,resourcecontrol=deny",
    "-display", "none", "-action", "reboot=shutdown,shutdown=poweroff,panic=pause",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class HardwareSpec:
    """The hardware of a machine; memory in MiB, the size of the disk in the image in bytes.

    `clock` is the time (UTC) of the hardware clock at each power-on, None that of the host. With `has_hub` further
    networks can be joined with the NIC's. `firmware` is the UEFI build that the instance starts with, None SeaBIOS.
    """

    emulator: Emulator
    accelerator: Accelerator
    instance: Instance
    memory: int
    image_format: DiskFormat
    image_size: int
    clock: datetime.datetime | None = None
    has_hub: bool = False
    firmware: FirmwareFiles | None = None


def command(hardware: HardwareSpec, descriptors: Descriptors) -> list[str]:
    """Returns the command that starts QEMU with the machine stopped before its first instruction."""
    return [
        hardware.emulator.binary,
        *PROCESS,
        *_board(hardware),
        *_memory(hardware, descriptors),
        *_firmware(descriptors.firmware),
        *_identity(hardware),
        *_consoles(descriptors),
        *_disk(hardware, descriptors),
        *_data_disk(hardware.instance, descriptors.data),
        *_reads(descriptors.reads),
        *_network(hardware.instance, has_hub=hardware.has_hub),
        *_counter(descriptors.counter),
        *(["-incoming", "defer"] if descriptors.incoming else []),
    ]


def _board(hardware: HardwareSpec) -> list[str]:
    threads = "multi" if hardware.emulator.threads_are_sound else "single"
    accelerator = f"tcg,thread={threads}" if hardware.accelerator.kind is AcceleratorKind.TCG else "kvm"
    topology = hardware.instance.type.topology
    return [
        *_machine_type(hardware.instance.firmware),
        "-accel", accelerator,
        "-cpu", processor.option(hardware.accelerator.cpu_model),
        "-smp", f"{hardware.instance.type.cpus},sockets={topology.sockets},cores={topology.cores},"
                f"threads={topology.threads}",
        "-m", str(hardware.memory),
        "-rtc", f"base={hardware.clock:%Y-%m-%dT%H:%M:%S}" if hardware.clock else "base=utc",
        "-device", "usb-tablet,bus=usb.0",
        "-device", "cirrus-vga,addr=2",
        "-device", f"virtio-balloon-pci,addr=6,{_TRANSITIONAL}",
        "-device", "pvpanic",
    ]  # fmt: skip


def _machine_type(firmware: Firmware) -> list[str]:
    """The board with its USB controller; that of Secure Boot has SMM, and flash that is written to in SMM alone."""
    # SMBIOS 2.8 has the 32-bit entry point; QEMU since 8.1 uses the one of SMBIOS 3.0 by default.
    tables = "smbios-entry-point-type=32"
    if firmware is not Firmware.UEFI_SECURE:
        return ["-machine", f"{MACHINE_TYPE},{tables}", "-device", "piix3-usb-uhci,id=usb,addr=1.2"]
    return ["-machine", f"{SECURE_MACHINE_TYPE},{tables},smm=on",
            "-global", "driver=cfi.pflash01,property=secure,value=on",
            "-device", "piix3-usb-uhci,id=usb,addr=1"]  # fmt: skip


def _memory(hardware: HardwareSpec, descriptors: Descriptors) -> list[str]:
    if descriptors.memory is None:
        return []
    sharing = "share=off,readonly=on,rom=off" if descriptors.copied else "share=on"
    return [
        "-object", f"memory-backend-file,id={_MEMORY},size={hardware.memory}M,"
                   f"mem-path=/proc/self/fd/{descriptors.memory},{sharing}",
        "-machine", f"memory-backend={_MEMORY}",
    ]  # fmt: skip


def _firmware(descriptors: tuple[int, int] | None) -> list[str]:
    """UEFI in two images of flash: its code, which all machines share and none can write, and its variables."""
    if descriptors is None:
        return []
    return [
        "-add-fd", f"fd={descriptors[0]},set={_CODE_SET}",
        "-add-fd", f"fd={descriptors[1]},set={_VARIABLES_SET}",
        "-blockdev", f"driver=file,node-name=code-file,filename=/dev/fdset/{_CODE_SET},read-only=on,"
                     "auto-read-only=off",
        "-blockdev", "driver=raw,node-name=code,file=code-file,read-only=on",
        "-blockdev", f"driver=file,node-name=variables-file,filename=/dev/fdset/{_VARIABLES_SET}",
        "-blockdev", "driver=raw,node-name=variables,file=variables-file",
        "-machine", "pflash0=code,pflash1=variables",
    ]  # fmt: skip


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


def _consoles(descriptors: Descriptors) -> list[str]:
    return [
        "-chardev", f"socket,id=monitor,fd={descriptors.monitor}",
        "-mon", "chardev=monitor,mode=control",
        "-chardev", f"socket,id=console,fd={descriptors.console}",
        "-device", "isa-serial,chardev=console",
        "-device", f"virtio-serial-pci,id=virtio-serial,addr=3,{_TRANSITIONAL}",
        "-chardev", f"socket,id=assistant,fd={descriptors.assistant}",
        "-device", f"virtserialport,bus=virtio-serial.0,nr=1,chardev=assistant,name={guest_hardware.ASSISTANT_PORT}",
        "-chardev", f"socket,id=channel,fd={descriptors.channel}",
        "-device", f"virtserialport,bus=virtio-serial.0,nr=2,chardev=channel,id={CHANNEL_DEVICE},name={CHANNEL_PORT}",
        *_virtio_console(descriptors),
    ]  # fmt: skip


def _virtio_console(descriptors: Descriptors) -> list[str]:
    if descriptors.virtio_console is None:
        return []
    return [
        "-chardev", f"socket,id=virtio-console,fd={descriptors.virtio_console}",
        "-device", "virtconsole,bus=virtio-serial.0,nr=0,chardev=virtio-console",
    ]  # fmt: skip


def _disk(hardware: HardwareSpec, descriptors: Descriptors) -> list[str]:
    top = f"layer-{len(descriptors.layers)}" if descriptors.layers else "image"
    discard = "unmap" if descriptors.write_log is None else "ignore"
    driver = ",".join(f"{name}={value}" for name, value in hardware.image_format.driver(hardware.image_size).items())
    return [
        "-add-fd", f"fd={descriptors.image},set={_IMAGE_SET}",
        "-add-fd", f"fd={descriptors.overlay},set={_OVERLAY_SET}",
        "-blockdev", f"driver=file,node-name=image-file,filename=/dev/fdset/{_IMAGE_SET},read-only=on,"
                     "auto-read-only=off",
        "-blockdev", f"{driver},node-name=image,file=image-file,read-only=on",
        *_layers(descriptors.layers),
        "-blockdev", f"driver=file,node-name=overlay-file,filename=/dev/fdset/{_OVERLAY_SET},discard={discard}",
        "-blockdev", f"driver=qcow2,node-name=overlay,file=overlay-file,backing={top},discard={discard}",
        *_write_log(descriptors.write_log),
        "-object", throttle(hardware.instance.type.disks),
        "-blockdev", f"driver=throttle,node-name=disk,file={'overlay' if descriptors.write_log is None else 'logged'},"
                     f"throttle-group={THROTTLE_GROUP},discard=unmap",
        "-device", f"virtio-blk-pci,id={SYSTEM_DISK},drive=disk,addr=4,bootindex=1,{_TRANSITIONAL},"
                   f"serial={hardware.instance.disk_serial}",
    ]  # fmt: skip


def _data_disk(instance: Instance, descriptor: int | None) -> list[str]:
    if descriptor is None:
        return []
    slot = int(guest_hardware.DATA_SLOT.partition(".")[0], 16)
    return [
        "-add-fd", f"fd={descriptor},set={_DATA_SET}",
        "-blockdev", f"driver=file,node-name=data-file,filename=/dev/fdset/{_DATA_SET},discard=unmap",
        "-blockdev", "driver=raw,node-name=data-raw,file=data-file,discard=unmap",
        "-blockdev", f"driver=throttle,node-name=data,file=data-raw,throttle-group={THROTTLE_GROUP},discard=unmap",
        "-device", f"virtio-blk-pci,id=data,drive=data,addr={slot},{_TRANSITIONAL},serial={instance.data_serial}",
    ]  # fmt: skip


def _layers(descriptors: tuple[int, ...]) -> list[str]:
    options: list[str] = []
    for number, descriptor in enumerate(descriptors, start=1):
        below = f"layer-{number - 1}" if number > 1 else "image"
        options += [
            "-add-fd", f"fd={descriptor},set={_VARIABLES_SET + number}",
            "-blockdev", f"driver=file,node-name=layer-file-{number},filename=/dev/fdset/{_VARIABLES_SET + number},"
                         "read-only=on,auto-read-only=off",
            "-blockdev", f"driver=qcow2,node-name=layer-{number},file=layer-file-{number},backing={below},"
                         "read-only=on",
        ]  # fmt: skip
    return options


def _write_log(descriptor: int | None) -> list[str]:
    """Logs above the image format, where discards are logged but not executed, so that a replay is exact."""
    if descriptor is None:
        return []
    return [
        "-add-fd", f"fd={descriptor},set={_LOG_SET}",
        "-blockdev", f"driver=file,node-name=log-file,filename=/dev/fdset/{_LOG_SET}",
        "-blockdev", "driver=blklogwrites,node-name=logged,file=overlay,log=log-file,log-sector-size=512,discard=unmap",
    ]  # fmt: skip


def _reads(descriptor: int | None) -> list[str]:
    if descriptor is None:
        return []
    events = [word for event in TRACED for word in ("-trace", f"enable={event}")]
    return [*events, "-trace", f"file=/dev/fd/{descriptor}"]


def _counter(counter: tuple[int, int] | None) -> list[str]:
    return [] if counter is None else ["-plugin", f"/dev/fd/{counter[0]},memory={counter[1]}"]


def throttle(limit: DiskLimits) -> str:
    """Returns the throttle group that limits all disks of a machine together."""
    limits = {"iops-total": (limit.operations, limit.operations_burst),
              "bps-total": (limit.bandwidth, limit.bandwidth_burst)}  # fmt: skip
    options = [f"throttle-group,id={THROTTLE_GROUP}"]
    for name, (lasting, burst) in limits.items():
        options.append(f"x-{name}={lasting}")
        options += [f"x-{name}-max={burst},x-{name}-max-length={_BURST}"] if burst > lasting else []
    return ",".join(options)


def _network(instance: Instance, *, has_hub: bool) -> list[str]:
    # restrict: the guest reaches these services only, neither the host nor any network. QEMU sends the guest what socat
    # prints, errors as well: it prints none, so that a service that is not served closes the connection.
    services = "".join(f",guestfwd=tcp:{server}-cmd:socat -lf /dev/null - UNIX-CONNECT:{socket}" for server, socket in (
        (f"{METADATA_ADDRESS}:80", METADATA_SOCKET), (f"{MIRROR_ADDRESS}:80", REPOSITORY_SOCKET),
        (f"{CLUSTER_ADDRESS}:{CLUSTER_PORT}", CLUSTER_SOCKET)))  # fmt: skip
    peer = "card-port" if has_hub else USER_NETWORK
    hub = ["-netdev", f"hubport,id=user-port,hubid={HUB},netdev={USER_NETWORK}",
           "-netdev", f"hubport,id={peer},hubid={HUB}"] if has_hub else []  # fmt: skip
    return [
        "-netdev", f"user,id={USER_NETWORK},restrict=on,net=100.100.0.0/16,host=100.100.0.2,"
                   f"dns={NAME_SERVERS[0]},dhcpstart={PRIVATE_ADDRESS}{services}",
        *hub,
        "-device", f"virtio-net-pci,netdev={peer},addr=5,mac={instance.mac},romfile=,{_TRANSITIONAL}",
    ]  # fmt: skip
