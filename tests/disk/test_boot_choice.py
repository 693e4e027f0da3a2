"""What boots next is what the boot loader, the priorities or the order of slots on the disk say."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Mapping
from pathlib import Path

import pytest

from lifsea_testbed.disk.boot_entries import BootEntry, first, in_order, parse_entry, version_key
from lifsea_testbed.disk.os_root import OsRoot, os_root
from lifsea_testbed.disk.source import RawFile
from lifsea_testbed.errors import NotJudged
from lifsea_testbed.profiles import recognition
from tests.disk.test_disk import judged, without_shell
from tests.support import disks

MIB = 1 << 20
LOADER: dict[str, str | bytes] = {"loader/loader.conf": "timeout 3\n"}
HASH = "8c3d5a8e5a6b4b1f9d8e7f6a5b4c3d2e00112233445566778899aabbccddeeff"


def unified_kernel(sections: Mapping[str, bytes]) -> bytes:
    """A PE file with those sections, each at a multiple of 512 bytes (Microsoft's PE format)."""
    header = struct.pack("<4sHH12xHH", b"PE\0\0", 0x8664, len(sections), 0, 0)
    place, rows, content = 1024, b"", b""
    for name, data in sections.items():
        size = -(-len(data) // 512) * 512
        rows += struct.pack("<8sIIII16x", name.encode(), len(data), 0, size, place)
        content, place = content + data.ljust(size, b"\0"), place + size
    return (b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 64) + header + rows).ljust(1024, b"\0") + content


def kernel(options: str, release: str = "ID=x\n") -> bytes:
    return unified_kernel({".osrel": release.encode(), ".cmdline": options.encode() + b"\0", ".linux": b"MZ"})


def slots(directory: Path, esp: Mapping[str, str | bytes], *, types: tuple[str, ...] = ("U", "L", "L"),
          settings: tuple[str, ...] = ("", 'name="root-a"', 'name="root-b"'),
          a: Mapping[str, str | bytes] | None = None) -> Path:
    """A disk with an ESP and two systems, whose names are a and b."""
    path = directory / "disk.raw"
    with path.open("wb") as file:
        file.truncate(30 * MIB)
    rows = [f"start={start * 2048}, size={8 * 2048}, type={kind}{', ' if more else ''}{more}"
            for start, kind, more in zip((1, 10, 19), types, settings, strict=True)]  # fmt: skip
    disks.run("sfdisk", "--quiet", path, given="\n".join(["label: gpt", *rows, ""]))
    disks.fat(path, disks.fill(directory / "esp", esp), offset=MIB, size=8)
    for name, start in (("a", 10), ("b", 19)):
        content = disks.fill(directory / name, {"etc/os-release": f"ID={name}\n", **(a or {} if name == "a" else {})})
        disks.file_system(path, content, "-L", f"fs-{name}", offset=start * MIB, size=8)
    return path


def system_of(path: Path) -> tuple[str, OsRoot]:
    with RawFile(path) as disk:
        root = os_root(disk)
        return (root.tree.read("/etc/os-release") or b"").decode().strip(), root


def entry(name: str, **fields: str) -> BootEntry:
    return parse_entry(name, "".join(f"{key.replace('_', '-')} {value}\n" for key, value in fields.items()))


@pytest.mark.parametrize(("older", "newer"), [
    ("9", "10"), ("1.2", "1.10"), ("1~rc1", "1"), ("1", "1.1"), ("1-1", "1^1"), ("1^1", "1.1"), ("a", "b"), ("a", "1"),
    ("007", "8"), ("B", "a"), ("abos_2", "abos_10"), ("6.1.0-9-amd64", "6.1.0-10-amd64"),
])  # fmt: skip
def test_versions_are_compared_as_the_specification_has_it(older: str, newer: str) -> None:
    assert version_key(older) < version_key(newer)


@pytest.mark.parametrize("entries", [
    (entry("b.conf", sort_key="a", version="2"), entry("c.conf", sort_key="a", version="1")),
    (entry("a.conf", sort_key="a", version="1"), entry("b.conf", sort_key="b", version="2")),
    (entry("a.conf", sort_key="z"), entry("z.conf")),
    (entry("x-10.conf"), entry("x-9.conf")),
    (entry("x-1+1.conf"), entry("x-2+0-3.conf")),
    (entry("x+3.conf"), entry("x+2-1.conf")),
    (entry("ostree-1.conf", version="10", options="ostree=/a"),
     entry("ostree-2.conf", version="9", options="ostree=/b")),
], ids=str)  # fmt: skip
def test_entries_are_in_the_order_of_the_menu(entries: tuple[BootEntry, BootEntry]) -> None:
    assert in_order(reversed(entries)) == list(entries) == in_order(entries)


def test_the_pattern_of_the_default_chooses_among_the_entries() -> None:
    entries = [entry("a-1.conf"), entry("a-2+0-3.conf"), entry("b.conf")]
    assert first(entries, ["none", "A-*"]) is entries[0]
    assert first(entries, ["a-2.conf"]) is entries[1] and first(entries) is entries[2]
    assert first([]) is None


def test_options_of_an_entry_are_those_of_all_its_lines() -> None:
    found = entry("a.conf", linux="/k", options="root=/dev/vda1 quiet\noptions ro root=/dev/vda2")
    assert found.options == ("root=/dev/vda1", "quiet", "ro", "root=/dev/vda2")
    assert (found.option("root="), found.option("x="), found.linux) == ("/dev/vda2", "", "/k")


@pytest.mark.parametrize("root", ["PARTLABEL=root-b", "LABEL=fs-b", "/dev/vda3", "/dev/disk/by-partlabel/root-b"])
def test_the_root_of_a_unified_kernel_image_boots(tmp_path: Path, root: str) -> None:
    esp = {"EFI/Linux/os_1.efi": kernel("root=PARTLABEL=root-a", "ID=x\nIMAGE_VERSION=1\n"),
           "EFI/Linux/os_2+3-0.efi": kernel(f"quiet root={root}", "ID=x\nIMAGE_VERSION=2\n")}  # fmt: skip
    release, found = system_of(slots(tmp_path, esp))
    assert (release, found.partition, found.others) == ("ID=b", 3, (2,))


@pytest.mark.parametrize(("name", "content"), [
    ("os_2+0-3.efi", kernel("root=LABEL=fs-b")), ("os_2+3-0.efi", b""), ("os_2+3-0.efi", b"MZ" + bytes(5000)),
    ("os_0.efi", kernel("root=LABEL=fs-b")),
], ids=["no try left", "empty", "no kernel", "older"])  # fmt: skip
def test_a_unified_kernel_image_that_does_not_boot_is_passed_over(tmp_path: Path, name: str, content: bytes) -> None:
    esp = {"EFI/Linux/os_1.efi": kernel("root=LABEL=fs-a"), f"EFI/Linux/{name}": content}
    assert system_of(slots(tmp_path, esp))[0] == "ID=a"


def test_the_default_of_systemd_boot_chooses(tmp_path: Path) -> None:
    esp = {**LOADER, "loader/loader.conf": "default os_1*\n", "EFI/Linux/os_1.efi": kernel("root=LABEL=fs-b"),
           "EFI/Linux/os_2.efi": kernel("root=LABEL=fs-a")}  # fmt: skip
    assert system_of(slots(tmp_path, esp))[0] == "ID=b"


def test_a_root_hash_is_the_name_of_a_partition(tmp_path: Path) -> None:
    settings = ("", 'name="a"', f'name="b", uuid={uuid.UUID(hex=HASH[:32])}')
    path = slots(tmp_path, {"EFI/Linux/os.efi": kernel(f"roothash={HASH} root=/dev/mapper/root")}, settings=settings)
    assert system_of(path)[0] == "ID=b"


def test_the_choice_in_the_environment_of_grub_boots(tmp_path: Path) -> None:
    entries = {f"loader/entries/{name}.conf": f"linux /k\noptions root=LABEL=fs-{name}\n" for name in "ab"}
    for number, (environment, boots) in enumerate([("saved_entry=a", "a"), ("saved_entry=a\nnext_entry=b", "b"),
                                                   ("x=y", "b"), ("saved_entry=gone", "b")]):  # fmt: skip
        place = tmp_path / str(number)
        place.mkdir()
        grubenv = f"# GRUB Environment Block\n{environment}\n".ljust(1024, "#")
        assert system_of(slots(place, {**entries, "grub/grubenv": grubenv}))[0] == f"ID={boots}"


@pytest.mark.parametrize(("environment", "boots"), [
    ("ORDER=B A\nB_OK=1\nB_TRY=0\nA_OK=1", "b"), ("ORDER=B A\nB_OK=1\nB_TRY=1\nA_OK=1\nA_TRY=0", "a"),
    ("ORDER=B A\nB_OK=0\nB_TRY=0\nA_OK=1\nA_TRY=0", "a"), ("ORDER=A B\nA_OK=1\nA_TRY=0\nB_OK=1", "a"),
])  # fmt: skip
def test_the_order_of_slots_of_rauc_boots(tmp_path: Path, environment: str, boots: str) -> None:
    configuration = "".join(f"[slot.rootfs.{name}]\ndevice=/dev/disk/by-partlabel/root-{name}\n"
                            f"bootname={name.upper()}\n" for name in "ab")  # fmt: skip
    path = slots(tmp_path, {"grub/grubenv": f"# GRUB Environment Block\n{environment}\n"},
                 a={"etc/rauc/system.conf": configuration})  # fmt: skip
    assert system_of(path)[0] == f"ID={boots}"


@pytest.mark.parametrize(("a", "b", "boots"), [
    ("48,56", "49,56", "b"), ("49,56", "48,56", "a"), ("48,56", "49", "a"), ("48,56", "49,52", "b"),
])  # fmt: skip
def test_the_slot_of_the_highest_priority_boots(tmp_path: Path, a: str, b: str, boots: str) -> None:
    """Each root has the partition before it, as Bottlerocket's boot partitions, with the priority."""
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.truncate(24 * MIB)
    kind = "6b636168-7420-6568-2070-6c616e657421"
    rows = [f'start=2048, size=2048, type={kind}, attrs="GUID:{a}"', "start=6144, size=16384, type=L",
            f'start=4096, size=2048, type={kind}, attrs="GUID:{b}"', "start=24576, size=16384, type=L"]  # fmt: skip
    disks.run("sfdisk", "--quiet", path, given="\n".join(["label: gpt", *rows, ""]))
    for name, start in (("a", 3), ("b", 12)):
        root = disks.fill(tmp_path / name, {"etc/os-release": f"ID={name}\n"})
        disks.file_system(path, root, offset=start * MIB, size=8)
    assert system_of(path)[0] == f"ID={boots}"


def test_a_free_slot_is_the_last_to_be_taken(tmp_path: Path) -> None:
    assert system_of(slots(tmp_path, LOADER, settings=("", 'name="_empty"', 'name="os_1"')))[0] == "ID=b"


def test_a_root_that_is_not_read_leaves_no_choice_between_two(tmp_path: Path) -> None:
    esp = {"EFI/Linux/os.efi": kernel("root=LABEL=elsewhere")}
    with pytest.raises(NotJudged, match=r"the boot entry os\.efi names the root LABEL=elsewhere"):
        system_of(slots(tmp_path, esp))


def test_an_esp_is_mounted_where_systemd_mounts_it(tmp_path: Path) -> None:
    esp = {**LOADER, "EFI/Linux/os.efi": kernel("root=LABEL=fs-a")}
    with RawFile(slots(tmp_path, esp, a={"boot/x": "", "efi/.keep": ""})) as disk:
        assert os_root(disk).tree.read("/efi/loader/loader.conf") == b"timeout 3\n"


def test_the_kernel_image_of_an_esp_shows_its_initramfs(tmp_path: Path) -> None:
    sections = {".linux": b"x", ".initrd": b"x", ".cmdline": b"root=LABEL=fs-a", ".osrel": b"ID=x\n"}
    guest = without_shell(judged(slots(tmp_path, {"EFI/Linux/os.efi": unified_kernel(sections)})))
    assert guest.kernel.initramfs_signs() == ["/partition-1/EFI/Linux/os.efi: a unified kernel image with an initramfs"]


def test_the_profile_is_that_of_the_slot_that_boots(tmp_path: Path) -> None:
    esp = {"EFI/Linux/os_2.efi": kernel("root=LABEL=fs-b"), "EFI/Linux/os_1.efi": kernel("root=LABEL=fs-a")}
    facts = judged(slots(tmp_path, esp)).release(recognition.marker_files())
    assert facts.os_release == {"ID": "b"} and facts.place == "partition 3 (partition 2 holds a system as well)"
