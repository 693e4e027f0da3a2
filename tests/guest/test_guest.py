"""The subjects of a guest read the output of its commands correctly."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from lifsea_testbed.errors import CommandFailed, GuestFailure, NotJudged
from lifsea_testbed.guest import accounts, disks, network, ostree, packages
from lifsea_testbed.guest.cri import ContainerRuntime
from lifsea_testbed.guest.disks import Disks
from lifsea_testbed.guest.files import Files
from lifsea_testbed.guest.kernel import Kernel
from lifsea_testbed.guest.operations import OperationsContainer
from lifsea_testbed.guest.ostree import Deployments
from lifsea_testbed.guest.packages import Packages
from lifsea_testbed.guest.system import Clock, System
from lifsea_testbed.guest.units import Units
from lifsea_testbed.profiles.profile import ClusterSection, OperationsSection
from tests.support.fakes import FakeShell


def runtime(answers: Mapping[str, str | tuple[int, str]]) -> ContainerRuntime:
    return ContainerRuntime(FakeShell(answers), ClusterSection())


OPERATIONS = OperationsSection(status="lifseacli container status", running="running")
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


def test_rpm_is_run_where_there_is_no_dpkg() -> None:
    shell = FakeShell({"for file in": (1, ""), "rpm -qa": "kernel 5.10-1\ngpg-pubkey 8b1-2\nbash 5.1-2\n"})
    assert [each.name for each in Packages(shell).installed()] == ["bash", "kernel"]


def test_an_image_without_a_database_is_not_judged() -> None:
    with pytest.raises(NotJudged):
        Packages(FakeShell({})).installed()


def test_modules_are_named() -> None:
    kernel = Kernel(FakeShell({"/proc/modules": "virtio_blk 20480 2 - Live 0x0\next4 1 1 - Live 0x0\n"}))
    assert kernel.loaded_modules(["virtio", "jbd2"]) == ["virtio_blk"]


def test_only_listening_sockets_count() -> None:
    table = ("  sl  local_address rem_address   st\n"
             "   0: 0100007F:2808 00000000:0000 0A 00000000:00000000\n"
             "   1: 0F076464:A1B2 C8646464:0050 01 00000000:00000000\n"
             "   2: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 0:0\n"
             "   3: 0000000000000000FFFF00000100007F:1F90 00000000000000000000000000000000:0000 0A 0:0\n")  # fmt: skip
    assert network.parse_sockets(table) == [
        network.Listener(port=22, address="::"), network.Listener(port=8080, address="127.0.0.1"),
        network.Listener(port=10248, address="127.0.0.1"),
    ]  # fmt: skip


def test_deployments_come_in_boot_order() -> None:
    first, second = ostree.parse_status(STATUS)
    assert (first.commit, first.booted, first.version, first.origin) == (COMMIT, True, "3.3.0", "lifsea/3/x86_64")
    assert (second.commit, second.booted, second.serial) == (OTHER, False, 1)


def test_a_system_that_ostree_does_not_know_is_a_failure() -> None:
    with pytest.raises(GuestFailure, match="no booted deployment"):
        Deployments(FakeShell({"ostree admin status": STATUS.replace("*", " ")})).booted()


def test_damage_is_the_output_of_fsck() -> None:
    assert Deployments(FakeShell({"ostree fsck": (0, "")})).repository_damage() == []
    assert Deployments(FakeShell({"ostree fsck": (1, "corrupt object\n")})).repository_damage() == ["corrupt object"]


def test_the_root_file_system_is_ostrees_sysroot_first() -> None:
    table = "21 1 253:4 /ostree/deploy/x / ro - ext4 /dev/vda4 ro\n22 21 253:4 / /sysroot ro - ext4 /dev/vda4 ro\n"
    assert disks.root_mount(table) == ("/sysroot", "253:4")
    with pytest.raises(GuestFailure):
        disks.root_mount("21 1 0:20 / / rw - overlay overlay rw\n")


def test_the_disk_is_measured_in_bytes() -> None:
    shell = FakeShell({"mountinfo": "21 1 253:4 / / rw - ext4 /dev/vda4 rw\n",
                       "readlink": "41943040\n40892383\n1050624\n5000000 4096\n"})  # fmt: skip
    found = Disks(shell).root()
    assert found.disk == 20 << 30 and found.unused == (41943040 - 1050624 - 40892383) * 512
    assert 0.97 < found.filled < 0.99


def test_disks_are_known_by_serial() -> None:
    assert Disks(FakeShell({"/sys/block": "vda abc\nvdb d e\n"})).by_serial() == {"abc": "vda", "d e": "vdb"}


def test_a_password_that_lets_in_is_found() -> None:
    assert accounts.parse_shadow("root:*:1::\nbin:!:1::\nadmin::1::\nuser:$y$j9T$x:1::\n") == ["admin", "user"]


def test_time_sources_are_named() -> None:
    shell = FakeShell({"chronyc": "^,?,ntp.cloud.aliyuncs.com,0\n^,*,100.100.61.88,2\n"})
    assert Clock(shell).time_sources() == ["ntp.cloud.aliyuncs.com", "100.100.61.88"]
    assert Clock(FakeShell({})).time_sources() == []


def test_the_cri_plugin_is_looked_up() -> None:
    rows = "TYPE ID PLATFORMS STATUS\nio.containerd.grpc.v1 cri linux/amd64 ok\n"
    assert runtime({"ctr plugins": rows}).cri_plugin_state() == "ok"
    assert runtime({"ctr plugins": rows.replace("cri", "tasks")}).cri_plugin_state() == "missing"


def test_containerd_answers_or_does_not() -> None:
    answer = "Client:\n  Version:  1.7.24\nServer:\n  Version:  1.7.25\n"
    assert runtime({"ctr version": answer}).containerd_version() == "1.7.25"
    assert runtime({"ctr version": (1, "")}).containerd_version() is None


def test_os_release_is_unquoted() -> None:
    shell = FakeShell({"os-release": "ID=lifsea\nVERSION=\"3.3 (x)\"\nEMPTY=\n# comment\n"})
    assert System(shell).os_release() == {"ID": "lifsea", "VERSION": "3.3 (x)", "EMPTY": ""}


def test_units_are_matched_by_their_whole_name() -> None:
    shell = FakeShell({"list-unit-files": "sshd.service enabled enabled\nmy-sshd.service disabled enabled\n"})
    assert Units(shell).named(r"sshd\.service") == ["sshd.service"]


def test_the_operations_tool_has_to_exist() -> None:
    with pytest.raises(CommandFailed):
        _ = OperationsContainer(FakeShell({"command -v": (127, "")}), OPERATIONS).is_running


@pytest.mark.parametrize(("printed", "running"), [("running\n", True), ("stopped\n", False), ("not-running\n", False)])
def test_the_operations_container_runs_if_its_tool_prints_so(printed: str, running: bool) -> None:
    shell = FakeShell({"command -v": "/usr/bin/lifseacli", "status": printed})
    assert OperationsContainer(shell, OPERATIONS).is_running is running


def test_a_directory_that_is_mounted_twice_is_named_once() -> None:
    found = "1:2 /sysroot/ostree/deploy/x/var\0" "1:2 /var\0" "3:1 /tmp\0"
    assert Files(FakeShell({"find /": found})).writable_paths() == ["/tmp", "/var"]


def test_a_name_with_a_newline_is_one_name() -> None:
    assert Files(FakeShell({"find /": "1:2 /a\nb\0"})).writable_paths() == ["/a\nb"]


def test_a_file_that_is_not_there_reads_as_nothing() -> None:
    assert Files(FakeShell({"cat": (1, "")})).read("/etc/x") is None


def test_a_process_in_a_container_has_another_root() -> None:
    shell = FakeShell({"/proc/self/root/": "/proc/9/\n/proc/11/\n"})
    assert OperationsContainer(shell, OperationsSection()).contained() == ["/proc/11/", "/proc/9/"]


def test_a_file_of_the_identity_that_is_named_has_to_exist() -> None:
    shell = FakeShell({"for file in /etc/machine-id /var/seed;": "/var/seed\n"})
    assert System(shell, ["/etc/machine-id", "/etc/ssh/*", "/var/seed"]).lacking_identity() == ["/var/seed"]
