"""The hardware is read correctly from the files of the guest's kernel."""

from __future__ import annotations

import pytest

from lifsea_testbed.ecs import guest_hardware
from lifsea_testbed.ecs.guest_hardware import PciDevice, SerialPort
from lifsea_testbed.ecs.instance_types import Topology
from lifsea_testbed.errors import AnswerUnreadable, NotJudged
from lifsea_testbed.guest import hardware
from lifsea_testbed.guest.hardware import NetworkCard, VisibleHardware
from tests.support.fakes import FakeShell

PROCESSOR = """\
processor\t: {number}
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 106
model name\t: Intel(R) Xeon(R) Platinum 8369B CPU @ 2.70GHz
stepping\t: 6
physical id\t: {socket}
core id\t\t: {core}
flags\t\t: fpu hypervisor avx512f

"""


def cpuinfo(*places: tuple[int, int]) -> str:
    return "".join(PROCESSOR.format(number=number, socket=socket, core=core)
                   for number, (socket, core) in enumerate(places))  # fmt: skip


def test_the_model_of_a_processor_is_read() -> None:
    seen = VisibleHardware(FakeShell({"/proc/cpuinfo": cpuinfo((0, 0), (0, 0))}))
    assert seen.processor() == guest_hardware.PROCESSOR
    assert (seen.processors(), seen.features()) == (2, {"fpu", "hypervisor", "avx512f"})


def test_a_processor_other_than_x86_is_a_failure() -> None:
    with pytest.raises(AnswerUnreadable, match="model name") as caught:
        VisibleHardware(FakeShell({"cpuinfo": "processor: 0\nCPU implementer: 0x41\n"})).processor()
    assert "CPU implementer" in caught.value.evidence and "x86" in caught.value.expected


@pytest.mark.parametrize(("places", "topology"), [
    ([(0, 0), (0, 0)], (1, 1, 2)), ([(0, 0), (0, 0), (0, 1), (0, 1)], (1, 2, 2)), ([(0, 0), (1, 0)], (2, 1, 1)),
    ([(0, 0)], (1, 1, 1)), ([], (0, 0, 0)),
])  # fmt: skip
def test_processors_are_arranged(places: list[tuple[int, int]], topology: tuple[int, int, int]) -> None:
    sockets, cores, threads = topology
    assert hardware.parse_topology(cpuinfo(*places)) == Topology(sockets=sockets, cores=cores, threads=threads)


def test_memory_is_that_of_the_firmware() -> None:
    ranges = ("00001000-0009fbff : System RAM\n00100000-bffdbfff : System RAM\n  01000000-01ffffff : Kernel code\n"
              "bffdc000-bfffffff : Reserved\n  c0000000-c0ffffff : System RAM\n"
              "100000000-23fffffff : System RAM\n")  # fmt: skip
    assert VisibleHardware(FakeShell({"/proc/iomem": ranges})).memory() == 8191


def test_the_firmwares_strings_are_named() -> None:
    output = "sys_vendor=Alibaba Cloud\nproduct_name=Alibaba Cloud ECS\nodd=a=b\nempty=\n"
    assert VisibleHardware(FakeShell({"/sys/class/dmi": output})).dmi() == {
        "sys_vendor": "Alibaba Cloud", "product_name": "Alibaba Cloud ECS", "odd": "a=b", "empty": "",
    }  # fmt: skip


def test_a_kernel_that_shows_nothing_is_not_judged() -> None:
    silent = VisibleHardware(FakeShell({"/sys/class/dmi": (3, ""), "rtc0": (1, "")}))
    with pytest.raises(NotJudged, match="DMI"):
        silent.dmi()
    with pytest.raises(NotJudged, match="clock"):
        silent.clock_offset()
    assert silent.console() is None


@pytest.mark.parametrize(("line", "version"), [
    ("<6>[    0.0] SMBIOS 2.8 present.", "2.8"), ("<6>SMBIOS 3.0.0 present.", "3.0"), ("<6>no such", ""),
])  # fmt: skip
def test_the_version_of_the_tables_is_in_the_kernels_messages(line: str, version: str) -> None:
    assert VisibleHardware(FakeShell({"dmesg": line})).smbios_version() == version


def test_pci_devices_are_known_by_slot() -> None:
    rows = "0000:00:04.0 0x1af4 0x1001 0x010000\n0000:01:00.0 0x8086 0x1 0x2\nbroken\n"
    assert VisibleHardware(FakeShell({"/sys/bus/pci": rows})).pci_devices() == {
        "04.0": PciDevice(vendor=0x1AF4, device=0x1001, kind=0x010000)
    }


def test_virtio_devices_are_known_by_slot() -> None:
    rows = "0000:00:03.0 0x0003\n0000:00:04.0 0x0002\n"
    assert VisibleHardware(FakeShell({"/sys/bus/virtio": rows})).virtio_devices() == {"03.0": 3, "04.0": 2}


def test_network_cards_are_devices() -> None:
    shell = FakeShell({"/sys/class/net": "0000:00:05.0 eth0 00:16:3e:00:00:01 2 1500\n"})
    assert VisibleHardware(shell).network_cards() == [
        NetworkCard(slot="05.0", name="eth0", mac="00:16:3e:00:00:01", queues=2, mtu=1500)
    ]


def test_the_console_is_a_serial_port() -> None:
    seen = VisibleHardware(FakeShell({"ttyS0": "0x3F8\n4\n4\n", "virtio-ports": "a\nb\n", "rtc0": "1700\n1698\n"}))
    assert seen.console() == SerialPort(address=0x3F8, interrupt=4, chip=4) == guest_hardware.CONSOLE
    assert (seen.virtio_ports(), seen.clock_offset()) == (["a", "b"], 2)
