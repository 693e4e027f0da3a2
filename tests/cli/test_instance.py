"""A real instance is compared with the model of it: what is the same, what differs, and what is new."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lifsea_testbed.cli import instance, main
from lifsea_testbed.ecs import guest_hardware, instance_types
from lifsea_testbed.ecs.instance import Instance
from lifsea_testbed.guest.hardware import VisibleHardware
from tests.guest.test_hardware import cpuinfo
from tests.support.fakes import FakeShell

LARGE = instance_types.find("ecs.g7.large")
FEATURES = " ".join([*guest_hardware.ICE_LAKE_FEATURES, "hypervisor", "sse"])


def answers(**others: str) -> dict[str, str]:
    """What the shell of an ecs.g7.large answers, if the model of it is right."""
    dmi = guest_hardware.dmi(Instance(type=LARGE))
    known = {
        "cpuinfo": cpuinfo((0, 0), (0, 0)).replace("fpu hypervisor avx512f", FEATURES),
        "iomem": "00001000-0009fbff : System RAM\n00100000-bffdbfff : System RAM\n100000000-23fffffff : System RAM\n",
        "system/node": "node0\n", "dmi/id": "".join(f"{name}={text}\n" for name, text in dmi.items()),
        "pci/devices": "".join(f"0000:00:{slot} {device.vendor:#x} {device.device:#x} {device.kind:#x}\n"
                               for slot, device in guest_hardware.PCI.items()),
        '"$device/device"': "".join(f"0000:00:{slot} {number:#x}\n"
                                    for slot, number in guest_hardware.VIRTIO.items()),
        '"$device/features"': "0000:00:05.0 0101\n", "class/net": "0000:00:05.0 eth0 00:16:3e:00:00:01 2 1500\n",
        "virtio-ports": "org.qemu.guest_agent.0\n", "ttyS0": "0x3F8\n4\n4\n", "rtc0": "100\n101\n",
        "clocksource": "kvm-clock\n", "tpm0": "2\n",
    }  # fmt: skip
    return {**known, **others}


def compared(**others: str) -> list[str]:
    seen = VisibleHardware(FakeShell(answers(**others)))
    return [str(fact) for fact in instance.compared(LARGE, seen)]


def test_an_instance_as_the_model_has_it_differs_in_nothing() -> None:
    lines = compared()
    assert [line for line in lines if not line.startswith(("the same  ", "new  "))] == []
    assert "new       source of time: kvm-clock" in lines
    assert "new       version of the trusted platform module: 2" in lines
    assert "new       features of virtio devices: {'05.0': [1, 3]}" in lines


@pytest.mark.parametrize(("others", "line"), [
    ({"cpuinfo": cpuinfo((0, 0), (0, 1))}, "differs   their arrangement: Topology(sockets=1, cores=2, threads=1)"),
    ({"system/node": "node0\nnode1\n"}, "differs   nodes of memory: 2; the test bed has 1"),
    ({"iomem": "00100000-7fffffff : System RAM\n"}, "differs   MiB of memory: 2047; the test bed has 8192"),
    ({"dmi/id": "bios_version=0.0.0\n"}, "differs   firmware's bios_version: 0.0.0; the test bed has 449e491"),
    ({"class/net": "0000:00:05.0 eth0 00:16:3e:00:00:01 4 8500\n"},
     "differs   network cards (slot, queues, MTU): [('05.0', 4, 8500)]; the test bed has [('05.0', 2, 1500)]"),
    ({"rtc0": "29100\n101\n"}, "differs   seconds that the hardware clock is ahead of UTC: 28999"),
    ({"virtio-ports": ""}, "differs   ports of the virtio console: []"),
    ({"tpm0": ""}, "new       version of the trusted platform module: none"),
    ({"pci/devices": "0000:00:08.0 0x1af4 0x1041 0x20000\n"}, "differs   PCI device 08.0: PciDevice(vendor=6900,"),
    ({"iomem": "none"}, "differs   MiB of memory: 0"), ({"ttyS0": "?"}, "not read  ttyS0: the answer to"),
])  # fmt: skip
def test_what_differs_is_shown_with_both_values(others: dict[str, str], line: str) -> None:
    assert [shown for shown in compared(**others) if shown.startswith(line)] != []


def test_what_differs_makes_the_exit_status_that_of_a_broken_test_bed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """This host is no ecs.g7; one without the fact that differs would be."""
    assert main.main(["instance", "script"]) == 0
    script = capsys.readouterr().out
    (record := tmp_path / "record").write_text(script.partition("\nask ")[0].partition("echo '")[2].partition("'")[0])
    assert main.main(["instance", "compare", str(record), "--instance-type", "ecs.g7.large"]) == 0
    assert "not read  processor: the record does not have this answer" in capsys.readouterr().out
    fact = instance.InstanceFact(what="a", model="1", found="2")
    assert fact.differs and not replace(fact, model="").differs and not replace(fact, readable=False).differs


@pytest.mark.parametrize(("words", "complaint"), [
    (["no-such-file"], "no-such-file: No such file or directory"), (["/dev/null"], "this is no record"),
    (["/dev/zero"], "/dev/zero: more than 4 MiB"), (["/dev/null", "--instance-type", "x"], "unknown instance type 'x'"),
])  # fmt: skip
def test_bad_input_is_refused(words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["instance", "compare", *words]) == 4
    assert complaint in capsys.readouterr().err
