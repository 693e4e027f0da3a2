"""What the guest answers is read as it was meant."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from lifsea_testbed.errors import CommandFailed, GuestFailure, NotJudged
from lifsea_testbed.guest import (
    accounts,
    clock,
    containers,
    disk,
    files,
    kernel,
    network,
    ostree,
    packages,
    system,
    units,
)
from lifsea_testbed.guest.operations import OperationsContainer
from lifsea_testbed.profiles.profile import OperationsSection
from tests.support.fakes import FakeShell

COMMIT, OTHER = "a" * 64, "b" * 64
STATUS = f"""\
* lifsea {COMMIT}.0
    Version: 3.3.0
    origin refspec: lifsea/3/x86_64
  lifsea {OTHER}.1 (rollback)
    Version: 3.2.9
"""


def test_packages_are_those_that_are_installed() -> None:
    status = ("Package: b\nStatus: install ok installed\nVersion: 1:2-3\n\n"
              "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n"
              "Package: a\nStatus: install ok installed\nVersion: 1\nDescription: x\n Package: not one\n")  # fmt: skip
    assert [(each.name, each.version) for each in packages.parse_dpkg_status(status)] == [("a", "1"), ("b", "1:2-3")]


def test_rpm_is_asked_where_there_is_no_dpkg() -> None:
    shell = FakeShell({"for file in": (1, ""), "rpm -qa": "kernel 5.10-1\nbash 5.1-2\n"})
    assert [each.name for each in packages.packages(shell)] == ["bash", "kernel"]


def test_an_image_without_a_database_is_not_judged() -> None:
    with pytest.raises(NotJudged):
        packages.packages(FakeShell({}))


def test_kernel_messages_have_their_priority() -> None:
    lines = ["<6>[    0.0] Linux version 6.1", "<3>[    1.0] EXT4-fs error", " continued", "<11>[  2.0] init: failed"]
    assert [message.priority for message in kernel.parse_messages(lines)] == [6, 3, 3]
    assert kernel.errors(FakeShell({"dmesg": "\n".join(lines)}), ["^.*EXT4-fs error$"]) == ["[  2.0] init: failed"]


def test_an_initramfs_leaves_signs() -> None:
    shell = FakeShell({"cd /boot": "grub/grub.cfg:initrd /initrd.img\n",
                       "dmesg": "<6>Unpacking initramfs...\n<6>other\n"})  # fmt: skip
    assert kernel.initramfs_signs(shell) == ["grub/grub.cfg:initrd /initrd.img", "Unpacking initramfs..."]


def test_modules_are_named() -> None:
    assert kernel.loaded_modules(FakeShell({"/proc/modules": "virtio_blk 20480 2 - Live 0x0\n"})) == ["virtio_blk"]


def test_listening_sockets_are_told_from_others() -> None:
    table = ("  sl  local_address rem_address   st\n"
             "   0: 0100007F:2808 00000000:0000 0A 00000000:00000000\n"
             "   1: 0F076464:A1B2 C8646464:0050 01 00000000:00000000\n"
             "   2: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 0:0\n"
             "   3: 0000000000000000FFFF00000100007F:1F90 00000000000000000000000000000000:0000 0A 0:0\n")  # fmt: skip
    assert network.parse_sockets(table) == [
        network.Listener(port=22, address="::"), network.Listener(port=8080, address="127.0.0.1"),
        network.Listener(port=10248, address="127.0.0.1"),
    ]  # fmt: skip


def test_an_ssh_server_is_found_on_any_port() -> None:
    row = "   0: 00000000:0929 00000000:0000 0A 0:0\n"
    assert network.ssh_speakers(FakeShell({"/proc/net/tcp": row, "/dev/tcp": "SSH-2.0-x"})) != []
    assert network.ssh_speakers(FakeShell({"/proc/net/tcp": row, "/dev/tcp": "HTTP/1.1"})) == []


def test_without_a_tool_nobody_can_say_who_speaks_ssh() -> None:
    with pytest.raises(NotJudged):
        network.ssh_speakers(FakeShell({"/proc/net/tcp": "   0: 00000000:0929 00000000:0000 0A 0:0\n"}))


def test_deployments_come_in_boot_order() -> None:
    first, second = ostree.parse_status(STATUS)
    assert (first.commit, first.booted, first.version, first.origin) == (COMMIT, True, "3.3.0", "lifsea/3/x86_64")
    assert (second.commit, second.booted, second.serial) == (OTHER, False, 1)


def test_a_system_that_ostree_does_not_know_is_a_failure() -> None:
    with pytest.raises(GuestFailure, match="no deployment is booted"):
        ostree.booted(FakeShell({"ostree admin status": STATUS.replace("*", " ")}))


def test_damage_is_what_fsck_says() -> None:
    assert ostree.damage(FakeShell({"ostree fsck": (0, "")})) == []
    assert ostree.damage(FakeShell({"ostree fsck": (1, "corrupt object\n")})) == ["corrupt object"]


def test_the_root_file_system_is_ostrees_sysroot_first() -> None:
    table = "21 1 253:4 /ostree/deploy/x / ro - ext4 /dev/vda4 ro\n22 21 253:4 / /sysroot ro - ext4 /dev/vda4 ro\n"
    assert disk.root_mount(table) == ("/sysroot", "253:4")
    with pytest.raises(GuestFailure):
        disk.root_mount("21 1 0:20 / / rw - overlay overlay rw\n")


def test_the_disk_is_measured_in_bytes() -> None:
    shell = FakeShell({"mountinfo": "21 1 253:4 / / rw - ext4 /dev/vda4 rw\n",
                       "readlink": "41943040\n40892383\n1050624\n5000000 4096\n"})  # fmt: skip
    found = disk.root_disk(shell)
    assert found.disk == 20 << 30 and found.unused == (41943040 - 1050624 - 40892383) * 512
    assert 0.97 < found.filled < 0.99


def test_disks_are_known_by_serial() -> None:
    assert disk.disks(FakeShell({"/sys/block": "vda abc\nvdb d e\n"})) == {"abc": "vda", "d e": "vdb"}


def test_a_password_that_lets_in_is_found() -> None:
    assert accounts.parse_shadow("root:*:1::\nbin:!:1::\nadmin::1::\nuser:$y$j9T$x:1::\n") == ["admin", "user"]


def test_time_sources_are_named() -> None:
    shell = FakeShell({"chronyc": "^,?,ntp.cloud.aliyuncs.com,0\n^,*,100.100.61.88,2\n"})
    assert clock.time_sources(shell) == ["ntp.cloud.aliyuncs.com", "100.100.61.88"]
    assert clock.time_sources(FakeShell({})) == []


def test_the_cri_plugin_is_looked_up() -> None:
    rows = "TYPE ID PLATFORMS STATUS\nio.containerd.grpc.v1 cri linux/amd64 ok\n"
    assert containers.cri_state(FakeShell({"ctr plugins": rows})) == "ok"
    assert containers.cri_state(FakeShell({"ctr plugins": rows.replace("cri", "tasks")})) == "missing"


def test_containerd_answers_or_does_not() -> None:
    answer = "Client:\n  Version:  1.7.24\nServer:\n  Version:  1.7.25\n"
    assert containers.containerd_version(FakeShell({"ctr version": answer})) == "1.7.25"
    assert containers.containerd_version(FakeShell({"ctr version": (1, "")})) is None


def test_os_release_is_unquoted() -> None:
    shell = FakeShell({"os-release": "ID=lifsea\nVERSION=\"3.3 (x)\"\nEMPTY=\n# comment\n"})
    assert system.os_release(shell) == {"ID": "lifsea", "VERSION": "3.3 (x)", "EMPTY": ""}


def test_units_are_matched_by_their_whole_name() -> None:
    shell = FakeShell({"list-unit-files": "sshd.service enabled enabled\nmy-sshd.service disabled enabled\n"})
    assert units.installed(shell, r"sshd\.service") == ["sshd.service"]


def test_the_operations_tool_has_to_exist() -> None:
    with pytest.raises(CommandFailed):
        _ = OperationsContainer(FakeShell({"command -v": (127, "")}), OperationsSection()).is_running


@pytest.mark.parametrize(("said", "running"), [("running\n", True), ("stopped\n", False), ("not-running\n", False)])
def test_the_operations_container_says_whether_it_runs(said: str, running: bool) -> None:
    shell = FakeShell({"command -v": "/usr/bin/lifseacli", "status": said})
    assert OperationsContainer(shell, OperationsSection()).is_running is running


def test_executables_are_matched_by_their_whole_name() -> None:
    found = [PurePosixPath(path) for path in ("/usr/bin/python3.11", "/usr/bin/ipython-config", "/opt/x/python")]
    assert files.named(found, [r"python(?:[\d.]*)?"]) == ["/usr/bin/python3.11", "/opt/x/python"]


def test_a_directory_that_is_mounted_twice_is_named_once() -> None:
    found = "1:2 /sysroot/ostree/deploy/x/var\0" "1:2 /var\0" "3:1 /tmp\0"
    assert files.writable_paths(FakeShell({"find /": found})) == ["/tmp", "/var"]


def test_a_name_with_a_newline_is_one_name() -> None:
    assert files.writable_paths(FakeShell({"find /": "1:2 /a\nb\0"})) == ["/a\nb"]


def test_a_file_that_is_not_there_reads_as_nothing() -> None:
    assert files.read(FakeShell({"cat": (1, "")}), "/etc/x") is None
