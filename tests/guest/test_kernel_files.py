"""The kernel's files are read by builtins of the shell: with no program in PATH they read the same."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lifsea_testbed.errors import AnswersDiffer
from lifsea_testbed.guest import disks, kernel_files, kubelet, network, operations
from lifsea_testbed.guest.disks import Disks
from lifsea_testbed.guest.kernel import Kernel
from lifsea_testbed.guest.kubelet import Kubelet
from lifsea_testbed.profiles.profile import ClusterSection
from tests.support.fakes import FakeShell

SHELLS = [path for name in ("dash", "bash") if (path := shutil.which(name))]
MOUNTS = """\
21 1 253:4 /ostree/deploy/x/deploy/c.0 / ro,relatime - ext4 /dev/vda4 rw
22 21 253:4 / /sysroot ro,relatime - ext4 /dev/vda4 rw
23 21 253:4 /ostree/deploy/x/var /var rw,relatime shared:1 - ext4 /dev/vda4 rw
24 22 253:4 /ostree/deploy/x/var /sysroot/ostree/deploy/x/var rw,relatime - ext4 /dev/vda4 rw
25 21 0:5 / /dev rw,nosuid - devtmpfs dev rw
26 21 0:6 / /proc rw - proc proc rw
27 21 253:3 / /boot rw,relatime - ext4 /dev/vda3 ro
"""


def run(shell: str, script: str) -> str:
    """What a shell prints that finds no program at all."""
    done = subprocess.run([shell, "-c", script], capture_output=True, text=True, check=True, env={"PATH": "/nowhere"})
    return done.stdout


@pytest.mark.parametrize("shell", SHELLS)
def test_a_file_is_shown_as_it_is(shell: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("  a \\b  *\n\n-n\nlast without an end")
    assert run(shell, kernel_files.shown(str(file), "/not/there")) == f"{file.read_text()}\n"
    assert run(shell, f"{kernel_files.SHOW}show {file} tcp\n").splitlines()[0] == "tcp   a \\b  *"


@pytest.mark.parametrize("shell", SHELLS)
def test_the_first_line_of_each_file_is_shown(shell: str, tmp_path: Path) -> None:
    files = {"a": "4\t4\n5\n", "b": "", "c": "\n", "d": "7"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    script = kernel_files.first_lines([str(tmp_path / name) for name in (*files, "none")])
    assert run(shell, script).split("\n") == ["4\t4", "absent", "", "7", "absent", ""]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_kernels_host_name_is_read_whole(shell: str) -> None:
    assert run(shell, kernel_files.first_lines(["/proc/sys/kernel/hostname"])).strip() == os.uname().nodename


@pytest.mark.parametrize("shell", SHELLS)
def test_open_ports_are_found_without_a_program(shell: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        tables = run(shell, network._TABLES)
        assert f"tcp 127.0.0.1:{port} kernel" in network.parse_open_ports(tables, "", "")


def test_a_cat_that_prints_another_setting_is_told() -> None:
    shell = FakeShell({"cat /proc/sys": "1\n", "IFS= read": "0\n"})
    with pytest.raises(AnswersDiffer, match=r"cat prints '1' of kernel.sysrq, the kernel's file begins with '0'"):
        Kernel(shell).sysctls(["kernel.sysrq"])


@pytest.mark.parametrize(("printed", "read", "value"), [
    ("60\n", "6\n", 60), ("60\n", "60\n", 60), ("a b\n", "a b\n", "a b"), ("absent\n", "absent\n", "absent"),
])
def test_a_shell_may_read_no_more_than_a_byte(printed: str, read: str, value: int | str) -> None:
    assert Kernel(FakeShell({"cat /proc/sys": printed, "IFS= read": read})).sysctls(["vm.x"]) == {"vm.x": value}


def test_mounts_inside_the_promised_paths_may_be_written_to() -> None:
    assert disks.parse_writable(MOUNTS, ["/dev", "/var"]) == []


@pytest.mark.parametrize(("row", "found"), [
    ("30 21 0:40 / /usr/share/cache rw - tmpfs none rw\n", ["/usr/share/cache"]),
    ("30 21 253:4 / /variable rw - ext4 /dev/vda4 rw\n", ["/variable"]),
    ("30 21 253:4 / /usr ro - ext4 /dev/vda4 rw\n", []), ("30 21 253:4 / /usr rw - ext4 /dev/vda4 ro\n", []),
    ("30 21 0:41 / /sys/fs/bpf rw - bpf bpf rw\n", []), ("cut\n", []),
])  # fmt: skip
def test_another_file_system_that_is_writable_is_found(row: str, found: list[str]) -> None:
    assert Disks(FakeShell({"mountinfo": MOUNTS + row})).writable_mounts_outside(["/dev", "/var"]) == found


@pytest.mark.parametrize(("shown", "found"), [
    ("kubelet 0::/system.slice/kubelet.service\n", []), ("", []),
    ("kubelet 12:pids:/system.slice/kubelet.service 0::/system.slice/kubelet.service\n", []),
    ("systemd 0::/init.scope\n", ["systemd"]), ("kernel -\n", ["kernel"]),
    ("kubelet 0::/system.slice/other.service\n", ["kubelet"]),
])  # fmt: skip
def test_only_the_kubelets_service_may_answer_for_the_kubelet(shown: str, found: list[str]) -> None:
    assert Kubelet(FakeShell({"port=2808": shown}), ClusterSection()).imposters() == found


@pytest.mark.parametrize("shell", SHELLS)
def test_the_process_at_a_port_is_found(shell: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        script = kubelet._LISTENING.replace("port=2808", f"port={server.getsockname()[1]:04X}")
        done = subprocess.run([shell, "-c", script], capture_output=True, text=True, check=True)
        name, group = Path("/proc/self/comm").read_text().strip(), Path("/proc/self/cgroup").read_text().split()
        assert done.stdout.splitlines()[0] == " ".join([name, *group])


@pytest.mark.skipif(os.geteuid() != 0, reason="chroot(2) is root's")
@pytest.mark.parametrize("shell", SHELLS)
def test_a_process_with_another_root_is_found_and_no_thread_of_the_kernel(shell: str, tmp_path: Path) -> None:
    waits = "import os, sys; os.chroot(sys.argv[1]); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", waits, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as one:
        assert one.stdout is not None and one.stdout.readline() == b"\n"
        found = run(shell, operations._CONTAINED).splitlines()
        one.communicate()
    assert f"/proc/{one.pid}/" in found and f"/proc/{os.getpid()}/" not in found
    assert "/proc/2/" not in found  # kthreadd
