"""The machine: an ecs.g7 as seen from inside, on the accelerator that executes code fastest."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import itertools
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from lifsea_testbed.disk.image_formats import DiskFormat
from lifsea_testbed.ecs import guest_hardware, instance_types, metadata_tree
from lifsea_testbed.ecs.instance import Instance
from lifsea_testbed.errors import HostError, ProfileRefused
from lifsea_testbed.machine import preflight
from lifsea_testbed.qemu import accelerator, command_line, emulator, storage
from lifsea_testbed.qemu.accelerator import Accelerator, AcceleratorKind, Speed, decide
from lifsea_testbed.support import private_dir
from lifsea_testbed.support.firmware import Firmware

KVM, TCG = AcceleratorKind.KVM, AcceleratorKind.TCG
SOURCE = Path(accelerator.__file__).with_name("payload.S")
INSTANCE = Instance(type=instance_types.find("ecs.g7.large"))


def command(kind: AcceleratorKind = KVM, *, version: str = "10.0.2",
            size: instance_types.InstanceType = INSTANCE.type, layers: tuple[int, ...] = (),
            write_log: int | None = None, reads: int | None = None, data: int | None = None,
            counter: tuple[int, int] | None = None, clock: datetime.datetime | None = None,
            has_hub: bool = False, firmware: tuple[int, int] | None = None,
            kind_of: Firmware = Firmware.UEFI) -> list[str]:
    kind_of = kind_of if firmware else Firmware.BIOS
    hardware = command_line.HardwareSpec(emulator=emulator.Emulator(binary="qemu", version=version),
                                         accelerator=Accelerator(kind=kind, speed=9000.0, why="measured"), memory=8192,
                                         instance=dataclasses.replace(INSTANCE, type=size, firmware=kind_of),
                                         image_format=DiskFormat.QCOW2, image_size=1 << 20, clock=clock,
                                         has_hub=has_hub)  # fmt: skip
    descriptors = command_line.Descriptors(monitor=10, console=11, assistant=15, channel=12, image=13, overlay=14,
                                           layers=layers, write_log=write_log, reads=reads, data=data, counter=counter,
                                           firmware=firmware)  # fmt: skip
    return command_line.command(hardware, descriptors)


def values(option: str, words: list[str]) -> list[str]:
    return [value for name, value in itertools.pairwise(words) if name == option]


def test_the_hardware_clock_has_the_time_of_the_host_or_another() -> None:
    noon = datetime.datetime(2026, 2, 28, 12, 0, 1, 999999, datetime.UTC)
    assert values("-rtc", command()) == ["base=utc"]
    assert values("-rtc", command(clock=noon)) == ["base=2026-02-28T12:00:01"]


def test_a_hub_joins_the_card_with_further_networks() -> None:
    user, *ports = values("-netdev", command(has_hub=True))
    assert user == values("-netdev", command())[0]
    assert ports == ["hubport,id=user-port,hubid=0,netdev=card", "hubport,id=card-port,hubid=0"]
    cards = [next(device for device in values("-device", words) if device.startswith("virtio-net"))
             for words in (command(), command(has_hub=True))]  # fmt: skip
    assert cards[1] == cards[0].replace("netdev=card,", "netdev=card-port,") != cards[0]


def test_a_counter_is_a_library_and_its_memory() -> None:
    assert values("-plugin", command(TCG, counter=(20, 21))) == ["/dev/fd/20,memory=21"]
    assert values("-plugin", command(TCG)) == []


def test_the_payload_is_what_its_source_assembles_to(tmp_path: Path) -> None:
    subprocess.run(["as", "-o", tmp_path / "payload.o", SOURCE], check=True)
    subprocess.run(["ld", "-e", "0", "-Ttext=0", "-o", tmp_path / "payload", tmp_path / "payload.o"], check=True)
    subprocess.run(["objcopy", "-O", "binary", tmp_path / "payload", tmp_path / "binary"], check=True)
    assembled = (tmp_path / "binary").read_bytes()
    assert accelerator.payload_rom().startswith(assembled)
    assert len(accelerator.payload_rom()) == 65536


@pytest.mark.parametrize(("version", "threads"), [
    ("7.2.22", "single"), ("8.0.5", "single"), ("8.1.0", "multi"), ("10.0.2", "multi"), ("unknown", "single"),
])  # fmt: skip
def test_a_qemu_with_unsound_threads_gets_one(version: str, threads: str) -> None:
    assert values("-accel", command(TCG, version=version)) == [f"tcg,thread={threads}"]
    assert values("-accel", command(KVM, version=version)) == ["kvm"]


def test_the_measured_processor_is_the_machines() -> None:
    chosen = decide("auto", kvm=Speed(rate=9000.0, cpu_model="Icelake-Server-v6"), tcg=Speed(rate=800.0))
    assert chosen.cpu_model == "Icelake-Server-v6"
    assert decide("tcg", kvm=Speed(rate=0.0), tcg=Speed(rate=800.0)).cpu_model == "max"


@pytest.mark.parametrize(("kind", "rate", "named"), [
    (TCG, 1800.0, "emulated"), (KVM, 2.3, "2.3 M"), (KVM, 4 * 1200.0, "4800.0 M"), (KVM, 7600.0, ""),
    (KVM, 4 * 5200.0, "20800.0 M"),
])  # fmt: skip
def test_a_host_that_is_slower_or_faster_than_an_ecs_g7_says_so(kind: AcceleratorKind, rate: float, named: str) -> None:
    pace = Accelerator(kind=kind, speed=rate, why="measured").other_pace
    assert named in pace and bool(named) == bool(pace)


@pytest.mark.boots
def test_tcg_runs_code_everywhere() -> None:
    assert accelerator.measure(TCG, emulator.find()).rate > 1.0


@pytest.mark.boots
def test_a_host_on_which_qemu_is_slow_to_start_runs_code_all_the_same() -> None:
    with private_dir.PrivateDirectory() as private:
        private.path.chmod(0o755)
        late = private.path / "late"
        late.write_text(f'#!/bin/sh\nsleep 2\nexec {emulator.find().binary} "$@"\n')
        late.chmod(0o755)
        speed = accelerator.measure(TCG, dataclasses.replace(emulator.find(), binary=str(late)))
    assert speed.rate > 1.0 and speed.after >= 2.0


@pytest.mark.boots
def test_what_is_too_slow_is_still_told_by_its_rate() -> None:
    assert 1.0 < accelerator.measure(TCG, emulator.find(), least=1e9).rate < 1e9


@pytest.mark.parametrize(("kvm", "tcg", "kind", "scale"), [
    (9000.0, 800.0, KVM, 1.0), (2700.0, 800.0, KVM, 2.0), (200.0, 80.0, KVM, 10.0), (2.3, 1800.0, TCG, 10.0),
    (0.0, 800.0, TCG, 10.0),
])  # fmt: skip
def test_the_accelerator_that_is_faster_by_far_is_chosen(
    kvm: float, tcg: float, kind: AcceleratorKind, scale: float
) -> None:
    chosen = decide("auto", kvm=Speed(rate=kvm, last_line="/dev/kvm: denied"), tcg=Speed(rate=tcg))
    assert (chosen.kind, chosen.time_scale) == (kind, scale)
    assert chosen.why


def test_kvm_that_crawls_is_refused_when_it_was_requested() -> None:
    with pytest.raises(HostError, match="not usable") as caught:
        decide("kvm", kvm=Speed(rate=2.3), tcg=Speed(rate=1800.0))
    assert "--accel auto" in caught.value.hint


def test_the_firmware_tables_are_those_of_the_cloud() -> None:
    tables = "\n".join(values("-smbios", command()))
    assert "manufacturer=Alibaba Cloud,product=Alibaba Cloud ECS,version=pc-i440fx-2.1" in tables


def test_uefi_is_read_only_code_and_a_store_of_variables_by_descriptor() -> None:
    words = command(firmware=(30, 31), data=20, layers=(16, 17), write_log=18)
    nodes = {node.partition("node-name=")[2].partition(",")[0]: node for node in values("-blockdev", words)}
    assert "pflash0=code,pflash1=variables" in values("-machine", words)
    assert "read-only=on" in nodes["code"] and "read-only=on,auto-read-only=off" in nodes["code-file"]
    assert "read-only" not in nodes["variables"] + nodes["variables-file"]
    sets = dict(value.split(",set=") for value in values("-add-fd", words))
    assert len(set(sets.values())) == len(sets) == 8
    assert f"/dev/fdset/{sets['fd=30']}," in nodes["code-file"] and nodes["variables-file"].endswith(sets["fd=31"])
    assert "pflash" not in " ".join(command())


def test_secure_boot_has_a_board_with_smm_and_flash_that_only_smm_writes() -> None:
    secure = command(firmware=(30, 31), kind_of=Firmware.UEFI_SECURE)
    assert "q35,smbios-entry-point-type=32,smm=on" in values("-machine", secure)
    assert values("-global", secure) == ["driver=cfi.pflash01,property=secure,value=on"]
    for plain in (command(), command(firmware=(30, 31))):
        assert not values("-global", plain) and "pc,smbios-entry-point-type=32" in values("-machine", plain)


def test_the_tables_of_a_uefi_machine_name_its_own_firmware() -> None:
    bios, uefi = ("\n".join(values("-smbios", command(firmware=firmware))) for firmware in (None, (30, 31)))
    assert "type=0,vendor=SeaBIOS,version=449e491," in bios
    assert "type=0,vendor=EFI Development Kit II / OVMF,version=0.0.0," in uefi
    assert [line for line in bios.split("\n") if "type=0" not in line] == [
        line for line in uefi.split("\n") if "type=0" not in line]  # fmt: skip


def test_the_variables_begin_as_their_template_and_can_be_put_back(tmp_path: Path) -> None:
    template = tmp_path / "template"
    template.write_bytes(b"new" + bytes(1 << 16))
    disks = storage.HeldDisks(tmp_path / "overlay", tmp_path / "data", image_size=1 << 20, data_disk=0,
                              variables=template)  # fmt: skip
    with contextlib.closing(disks):
        assert disks.variables is not None and disks.variables.path.parent == tmp_path
        assert disks.variables.path.stat().st_blocks * 512 >= 1 << 16  # no later write to it can find the disk full
        disks.begin()
        disks.variables.overwrite(b"old" + bytes(1 << 16))
        assert disks.untouched and disks.variables.content().startswith(b"old")
        disks.put_back()
        assert disks.variables.content() == template.read_bytes()
        disks.overlay.overwrite(b"x")
        assert not disks.untouched


def test_without_uefi_there_are_no_variables(tmp_path: Path) -> None:
    disks = storage.HeldDisks(tmp_path / "overlay", tmp_path / "data", image_size=1 << 20, data_disk=0)
    with contextlib.closing(disks):
        disks.begin()
        disks.put_back()
        assert disks.variables is None and disks.untouched and disks.all == (disks.overlay,)


def test_variables_that_cannot_be_copied_are_the_hosts_fault(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"UEFI variables .* cannot be copied"):
        storage.copy_whole(tmp_path / "none", tmp_path / "store")


def test_the_devices_sit_in_the_slots_of_an_instance() -> None:
    devices = values("-device", command())
    slots = {device.partition(",")[0]: device for device in devices}
    assert ",addr=3," in slots["virtio-serial-pci"]
    assert ",addr=4," in slots["virtio-blk-pci"] and f"serial={INSTANCE.disk_serial}" in slots["virtio-blk-pci"]
    assert ",addr=5," in slots["virtio-net-pci"] and "mac=00:16:3e:" in slots["virtio-net-pci"]
    assert all("disable-legacy=off" in device for name, device in slots.items() if name.startswith("virtio-"))


def test_a_data_disk_is_the_last_device_and_throttled_with_the_first() -> None:
    words = command(data=20, layers=(16, 17))
    disk = next(device for device in values("-device", words) if "drive=data," in device)
    assert f",addr={int(guest_hardware.DATA_SLOT[:2], 16)}," in disk and f"serial={INSTANCE.data_serial}" in disk
    assert [node for node in values("-blockdev", words)
            if "node-name=data," in node and command_line.THROTTLE_GROUP in node]  # fmt: skip
    sets = [value.rpartition("set=")[2] for value in values("-add-fd", words)]
    assert len(sets) == len(set(sets)) == 5
    assert not [device for device in values("-device", command()) if "drive=data," in device]


def test_an_instance_with_a_data_disk_looks_like_it() -> None:
    larger = dataclasses.replace(INSTANCE, data_disk=20)
    assert set(guest_hardware.pci(larger)) - set(guest_hardware.pci(INSTANCE)) == {guest_hardware.DATA_SLOT}
    assert set(guest_hardware.virtio(larger)) - set(guest_hardware.virtio(INSTANCE)) == {guest_hardware.DATA_SLOT}
    assert larger.disk_serials == [INSTANCE.disk_serial, INSTANCE.data_serial] != INSTANCE.disk_serials
    tree = metadata_tree.meta_data(larger)
    assert tree[f"disks/{larger.data_serial}/name"] == "data disk"
    assert metadata_tree.meta_data(INSTANCE).keys() < tree.keys()


def test_a_data_disk_takes_no_room_until_it_is_written(tmp_path: Path) -> None:
    disk = storage.create_data_disk(tmp_path / "data", size=20)
    assert disk is not None and (disk.stat().st_size, disk.stat().st_blocks) == (20 << 30, 0)
    assert storage.create_data_disk(tmp_path / "none", size=0) is None


def test_the_image_boots_by_its_own_means() -> None:
    assert not {"-kernel", "-initrd", "-append"} & set(command())


def test_the_image_is_opened_read_only_and_never_guessed_at() -> None:
    disks = values("-blockdev", command())
    assert [disk for disk in disks if "/dev/fdset/1" in disk and "read-only=on" in disk]
    assert [disk for disk in disks if disk.startswith("driver=qcow2,node-name=image,") and "read-only=on" in disk]
    assert all(disk.startswith("driver=") for disk in disks)


def test_the_guest_reaches_no_network() -> None:
    (network,) = values("-netdev", command())
    assert "restrict=on" in network and "hostfwd" not in network


def test_a_service_that_is_not_served_answers_nothing(tmp_path: Path) -> None:
    """QEMU sends the guest what the command prints, on both of its outputs: the error of a tool is no answer."""
    (network,) = values("-netdev", command())
    commands = [option.partition("-cmd:")[2] for option in network.split(",") if "-cmd:" in option]
    assert len(commands) == 3
    for words in commands:
        done = subprocess.run(words.split(), cwd=tmp_path, input=b"GET / HTTP/1.1\r\n\r\n", capture_output=True,
                              check=False)  # fmt: skip
        assert (done.stdout, done.stderr) == (b"", b"") and done.returncode == 1


def test_qemu_is_sandboxed() -> None:
    assert values("-sandbox", command()) == ["on,obsolete=deny,spawn=allow,resourcecontrol=deny"]
    assert {"-nodefaults", "-no-user-config"} <= set(command())


@pytest.mark.parametrize("name", instance_types.CATALOGUE)
def test_every_size_has_two_threads_a_core_in_as_few_sockets_as_hold_them(name: str) -> None:
    size = instance_types.find(name)
    (arranged,) = values("-smp", command(size=size))
    sockets = 2 if name == "ecs.g7.32xlarge" else 1
    assert arranged == f"{size.cpus},sockets={sockets},cores={size.cpus // 2 // sockets},threads=2"
    assert bool(size.inferred) == (name not in {"ecs.g7.large", "ecs.g7.2xlarge"})
    assert size.memory == size.cpus * 4096 and size.queues <= size.cpus


@pytest.mark.parametrize("name", instance_types.CATALOGUE)
def test_every_size_is_held_to_its_disks_ceiling(name: str) -> None:
    size = instance_types.find(name)
    (group,) = values("-object", command(size=size))
    limits = dict(option.split("=") for option in group.split(",")[1:])
    assert int(limits["x-iops-total"]) == size.disks.operations <= size.disks.operations_burst
    assert int(limits["x-bps-total"]) == size.disks.bandwidth <= size.disks.bandwidth_burst
    assert ("x-iops-total-max" in limits) == (size.disks.operations < size.disks.operations_burst)


def test_the_smallest_size_bursts() -> None:
    assert command_line.throttle(INSTANCE.type.disks) == (
        "throttle-group,id=ceiling,x-iops-total=20000,x-iops-total-max=160000,x-iops-total-max-length=1800,"
        "x-bps-total=187500000,x-bps-total-max=1250000000,x-bps-total-max-length=1800"
    )


@pytest.mark.boots
def test_qemu_takes_every_ceiling(tmp_path: Path) -> None:
    groups = [command_line.throttle(size.disks).replace("id=ceiling", f"id=ceiling{number}")
              for number, size in enumerate(instance_types.CATALOGUE.values())]  # fmt: skip
    options = [word for group in groups for word in ("-object", group)]
    ended = subprocess.run([emulator.BINARY, "-machine", "none", "-display", "none", "-monitor", "stdio", *options],
                           input="quit\n", capture_output=True, text=True, check=False, cwd=tmp_path)  # fmt: skip
    assert ended.returncode == 0, ended.stderr


def test_the_system_disk_lies_below_the_ceiling() -> None:
    nodes = {dict(option.split("=") for option in disk.split(","))["node-name"]: disk
             for disk in values("-blockdev", command())}  # fmt: skip
    assert "driver=throttle" in nodes["disk"] and "file=overlay," in nodes["disk"]
    assert "discard=unmap" in nodes["disk"] and "driver=qcow2" in nodes["overlay"]


def test_instances_are_strangers_to_each_other() -> None:
    one, other = Instance(type=INSTANCE.type), Instance(type=INSTANCE.type)
    assert len({one.id, other.id, one.uuid, other.uuid, one.mac, other.mac, one.disk_serial, other.disk_serial}) == 8
    assert len(one.disk_serial) == 20


def test_an_unknown_instance_type_names_those_there_are() -> None:
    with pytest.raises(ProfileRefused) as caught:
        instance_types.find("ecs.g7.tiny")
    assert "ecs.g7.large" in caught.value.hint


def test_memory_is_cut_to_what_the_host_has() -> None:
    assert preflight.fit_memory(8192, 24000) == 8192
    assert preflight.fit_memory(8192, 4000) == 3328
    with pytest.raises(HostError, match="memory"):
        preflight.fit_memory(8192, 1200)


@pytest.mark.parametrize(("machines", "memory", "place"), [
    (1, 16000, "memory"), (1, 11000, "disk"), (2, 16000, "disk"), (2, 24000, "memory"),
])  # fmt: skip
def test_overlays_lie_in_memory_where_they_fit_beside_the_guests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machines: int, memory: int, place: str
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=7 << 30))
    places = [tmp_path / "disk", tmp_path / "memory"]
    chosen = preflight.choose_scratch(places, machines=machines, memory=8192, available=memory)
    assert chosen.name == place


def test_overlays_lie_where_the_user_wants_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert private_dir.places() == [tmp_path]


def test_a_full_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "LEAST_DISK", 1 << 60)
    with pytest.raises(HostError, match="MiB are free"):
        preflight.require_disk(tmp_path)


def test_an_overlay_names_no_backing_file(tmp_path: Path) -> None:
    storage.create_overlay(tmp_path / "overlay.qcow2", image_size=1 << 20)
    described = subprocess.run(["qemu-img", "info", tmp_path / "overlay.qcow2"], capture_output=True, text=True,
                               check=True).stdout  # fmt: skip
    assert "backing" not in described and "20 GiB" in described


def test_an_overlay_that_cannot_be_made_is_the_hosts_fault(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"overlay .* cannot be created: No such file"):
        storage.create_overlay(tmp_path / "none" / "overlay.qcow2", image_size=1)
