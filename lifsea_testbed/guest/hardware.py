"""The hardware as the guest's kernel sees it, from procfs and sysfs alone: no lspci, no dmidecode."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from lifsea_testbed.ecs.guest_hardware import PciDevice, Processor, SerialPort
from lifsea_testbed.ecs.instance_types import Topology
from lifsea_testbed.errors import NotJudged, Reason
from lifsea_testbed.guest.answers import readable
from lifsea_testbed.guest.kernel import Kernel
from lifsea_testbed.support.lines import split_lines
from lifsea_testbed.support.protocols import CommandResult, Shell

_DMI = """
cd /sys/class/dmi/id 2>/dev/null || exit 3
for name in *; do [ -f "$name" ] && echo "$name=$(cat "$name" 2>/dev/null)"; done
"""
_PCI = """
for device in /sys/bus/pci/devices/*; do
    echo "${device##*/} $(cat "$device/vendor" "$device/device" "$device/class" | tr '\\n' ' ')"
done
"""
_VIRTIO = """
for device in /sys/bus/virtio/devices/*; do
    path=$(readlink -f "$device") && path=${path%/*}
    echo "${path##*/} $(cat "$device/device")"
done
"""
_VIRTIO_FEATURES = """
for device in /sys/bus/virtio/devices/*; do
    path=$(readlink -f "$device") && path=${path%/*}
    echo "${path##*/} $(cat "$device/features")"
done
"""
_CARDS = """
for card in /sys/class/net/*; do
    [ -e "$card/device" ] || continue
    path=$(readlink -f "$card/device") && path=${path%/virtio*}
    set -- "$card"/queues/rx-*
    echo "${path##*/} ${card##*/} $(cat "$card/address") $# $(cat "$card/mtu")"
done
"""
_PORTS = "cat /sys/class/virtio-ports/*/name 2>/dev/null || :"
_CONSOLE = "cd /sys/class/tty/ttyS0 2>/dev/null && cat port irq type"
_VULNERABILITIES = "cd /sys/devices/system/cpu/vulnerabilities 2>/dev/null && grep -H . *"
_CLOCK = "cat /sys/class/rtc/rtc0/since_epoch 2>/dev/null && date -u +%s"
_NODES = "cd /sys/devices/system/node 2>/dev/null && ls -d node[0-9]*"
_CLOCK_SOURCE = "cat /sys/devices/system/clocksource/clocksource0/current_clocksource"
_TPM = "cat /sys/class/tpm/tpm0/tpm_version_major 2>/dev/null || :"
_MEBIBYTE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class NetworkCard:
    """A network card: its PCI slot, MAC address, receive queues, and MTU in bytes."""

    slot: str
    name: str
    mac: str
    queues: int
    mtu: int


class VisibleHardware:
    """The hardware that the guest sees; each answer is a value that can be compared with the instance's."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell

    def processor(self) -> Processor:
        """The model of the first processor."""
        answer = self._cpuinfo()
        with readable(answer, expected="/proc/cpuinfo of an x86 processor"):
            return parse_processor(answer.stdout)

    def features(self) -> set[str]:
        """The features of the first processor, by the kernel's names."""
        return set(_fields(self._cpuinfo().stdout).get("flags", "").split())

    def processors(self) -> int:
        """The processors that are online."""
        return sum(line.startswith("processor") for line in self._cpuinfo().lines)

    def topology(self) -> Topology:
        """The arrangement of the processors in sockets, cores and threads."""
        return parse_topology(self._cpuinfo().stdout)

    def memory(self) -> int:
        """The memory (MiB) that the firmware reports to the kernel; the kernel's own is not subtracted."""
        answer = self._shell.run("cat /proc/iomem")
        with readable(answer, expected="ranges of addresses"):
            return parse_memory(answer.stdout)

    def memory_nodes(self) -> int:
        """The nodes of memory (NUMA); one where the kernel does not tell them apart."""
        return max(1, len(self._shell.run(_NODES, check=False).lines))

    def dmi(self) -> dict[str, str]:
        """The firmware's DMI strings, by the names that the kernel gives them.

        Raises:
            NotJudged: the kernel shows none (CONFIG_DMIID).
        """
        answer = self._shell.run(_DMI, check=False)
        if answer.exit_status == 3:
            raise NotJudged("the kernel shows no DMI strings", Reason.IMAGE)
        return dict(line.split("=", 1) for line in answer.lines if "=" in line)

    def smbios_version(self) -> str:
        """The version of the firmware's SMBIOS tables, as the kernel reported it at boot; empty if it did not."""
        return parse_smbios(message.text for message in Kernel(self._shell).messages())

    def pci_devices(self) -> dict[str, PciDevice]:
        """The PCI devices by slot (device and function on bus 0, as in `04.0`)."""
        answer = self._shell.run(_PCI)
        with readable(answer, expected="address, vendor, device and class on each line"):
            return parse_pci(answer.lines)

    def virtio_devices(self) -> dict[str, int]:
        """The numbers of the virtio devices by PCI slot."""
        answer = self._shell.run(_VIRTIO)
        with readable(answer, expected="address and number on each line"):
            return {_slot(row[0]): int(row[1], 16) for row in map(str.split, answer.lines) if len(row) == 2}

    def virtio_features(self) -> dict[str, set[int]]:
        """The features that each virtio device negotiated, by PCI slot (virtio specification, 6: numbers of bits)."""
        answer = self._shell.run(_VIRTIO_FEATURES)
        with readable(answer, expected="address and bits on each line"):
            return {_slot(row[0]): {number for number, bit in enumerate(row[1]) if bit == "1"}
                    for row in map(str.split, answer.lines) if len(row) == 2}  # fmt: skip

    def network_cards(self) -> list[NetworkCard]:
        """The network cards that are devices, in order of their names."""
        answer = self._shell.run(_CARDS)
        with readable(answer, expected="address, name, MAC, number of queues and MTU on each line"):
            return parse_cards(answer.lines)

    def virtio_ports(self) -> list[str]:
        """The names of the ports on the virtio console."""
        return self._shell.run(_PORTS).lines

    def console(self) -> SerialPort | None:
        """The serial port that is ttyS0, or nothing if there is none."""
        answer = self._shell.run(_CONSOLE, check=False)
        with readable(answer, expected="port, interrupt and type"):
            return parse_console(answer.stdout) if answer.ok else None

    def vulnerabilities(self) -> dict[str, str]:
        """The known vulnerabilities of processors, by the kernel's names, and what it says of each."""
        answer = self._shell.run(_VULNERABILITIES, check=False)
        return dict(line.split(":", 1) for line in answer.lines if ":" in line)

    def clock_offset(self) -> int:
        """How many seconds the hardware clock, read as UTC, is ahead of the system's.

        Raises:
            NotJudged: the kernel shows no hardware clock.
        """
        answer = self._shell.run(_CLOCK, check=False)
        if not answer.ok:
            raise NotJudged("the kernel shows no hardware clock", Reason.IMAGE)
        with readable(answer, expected="seconds since the epoch, twice"):
            hardware, system = map(int, answer.stdout.split())
            return hardware - system

    def clock_source(self) -> str:
        """The kernel's source of time, as `kvm-clock`."""
        return self._shell.run(_CLOCK_SOURCE).stdout.strip()

    def tpm(self) -> str:
        """The version of the trusted platform module, as `2`; empty where the kernel has found none."""
        return self._shell.run(_TPM).stdout.strip()

    def _cpuinfo(self) -> CommandResult:
        return self._shell.run("cat /proc/cpuinfo")


def parse_processor(cpuinfo: str) -> Processor:
    """Reads the first block of /proc/cpuinfo; raises KeyError or ValueError if it is not that of an x86 processor."""
    fields = _fields(cpuinfo)
    return Processor(name=fields["model name"], vendor=fields["vendor_id"], family=int(fields["cpu family"]),
                     model=int(fields["model"]), stepping=int(fields["stepping"]))  # fmt: skip


def parse_topology(cpuinfo: str) -> Topology:
    """Reads how many sockets /proc/cpuinfo has, how many cores the first has, and how many threads its first core."""
    blocks = [_fields(block) for block in cpuinfo.split("\n\n") if block.strip()]
    places = [(block.get("physical id", "0"), block.get("core id", "0")) for block in blocks]
    cores = set(places)
    sockets = {socket for socket, _ in cores}
    return Topology(sockets=len(sockets), cores=len(cores) // max(1, len(sockets)),
                    threads=len(places) // max(1, len(cores)))  # fmt: skip


def parse_memory(iomem: str) -> int:
    """Adds up the System RAM of /proc/iomem, in MiB, rounded down; nested lines lie within others."""
    ranges = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) : System RAM$", iomem, re.MULTILINE)
    return sum(int(last, 16) - int(first, 16) + 1 for first, last in ranges) // _MEBIBYTE


def parse_smbios(messages: Iterable[str]) -> str:
    """Finds the version in the kernel's message `SMBIOS 2.8 present.`, without a third number."""
    found = (re.search(r"SMBIOS (\d+\.\d+)(?:\.\d+)? present", message) for message in messages)
    return next((match[1] for match in found if match), "")


def parse_pci(lines: Iterable[str]) -> dict[str, PciDevice]:
    """Reads lines of address, vendor, device and class, the numbers in hexadecimal; bus 0 only."""
    devices = {}
    for address, *numbers in map(str.split, lines):
        if address.startswith("0000:00:") and len(numbers) == 3:
            vendor, device, kind = (int(number, 16) for number in numbers)
            devices[_slot(address)] = PciDevice(vendor=vendor, device=device, kind=kind)
    return devices


def parse_cards(lines: Iterable[str]) -> list[NetworkCard]:
    """Reads lines of PCI address, name, MAC address, receive queues and MTU."""
    rows = [line.split() for line in lines]
    return [NetworkCard(slot=_slot(row[0]), name=row[1], mac=row[2], queues=int(row[3]), mtu=int(row[4]))
            for row in rows if len(row) == 5]  # fmt: skip


def parse_console(text: str) -> SerialPort:
    """Reads port (hexadecimal), irq and type of a tty in sysfs, a line each."""
    address, interrupt, chip = text.split()
    return SerialPort(address=int(address, 16), interrupt=int(interrupt), chip=int(chip))


def _fields(cpuinfo: str) -> dict[str, str]:
    """The fields of the first processor."""
    lines = split_lines(cpuinfo.partition("\n\n")[0])
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _slot(address: str) -> str:
    """`04.0` of `0000:00:04.0`."""
    return address.rpartition(":")[2]
