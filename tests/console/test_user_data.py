"""The user-data that opens a shell, and what it installs in the guest, run on this host with files of its own."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lifsea_testbed.console import user_data
from lifsea_testbed.profiles.profile import AccessSection
from lifsea_testbed.support.deadline import Deadline

PORT = "org.example.shell"
SOON = 30.0
#: What becomes of the paths of a guest.
_MOVED = ("/etc/lifsea-testbed", "/etc/systemd/system", "/etc/inittab", "/sbin/init", "/run/systemd/system",
          "/run/lifsea-testbed-loop", "/sys/class/virtio-ports", "/proc/1/root", "/dev/kmsg")  # fmt: skip


class Place:
    """A directory with the files that the script reads and writes, a port, and a systemctl that records its words."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for name in ("run", "sbin", "proc/1", "dev", "bin", "etc", "opt", "usr/local"):
            (path / name).mkdir(parents=True)
        self.add_port("vport1p1", PORT)
        (path / "bin/systemctl").write_text(f'#!/bin/sh\necho "$@" >>{path}/systemctl\n')
        (path / "bin/systemctl").chmod(0o755)

    def add_port(self, device: str, name: str) -> None:
        directory = self.path / "sys/class/virtio-ports" / device
        directory.mkdir(parents=True)
        (directory / "name").write_text(f"{name}\n")

    def moved(self, text: str) -> str:
        for path in _MOVED:
            text = re.sub(rf"(?<![\w.]){path}\b", f"{self.path}{path}", text)
        return text

    def run(self, access: AccessSection, before: str = "", search_path: str = "") -> None:
        """Runs the script; its agent writes what it was started with into the file `opened`."""
        script = self.moved(user_data.user_data(PORT, access).decode())
        (self.path / "user-data").write_text(script)
        unshare = [shutil.which("unshare") or "unshare", "--mount", "--propagation", "private"]
        subprocess.run([*unshare, "sh", "-ec", f"{before}\nexec sh user-data"], cwd=self.path, check=True,
                       capture_output=True, timeout=SOON,
                       env={"PATH": search_path or f"{self.path}/bin:/usr/sbin:/usr/bin:/sbin:/bin"})  # fmt: skip

    def text(self, name: str) -> str:
        return (self.path / name).read_text()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    made = Place(tmp_path)
    monkeypatch.setattr(user_data, "agent", lambda name: f'echo {name} "$@" $PPID >>{tmp_path}/opened\n')
    yield made
    subprocess.run(["pkill", "-f", f"{tmp_path}/etc/lifsea-testbed/forever.sh"], check=False)


def access(*methods: str, **settings: str) -> AccessSection:
    return AccessSection.model_validate({"methods": list(methods or ["user-data"]), **settings})


def opening(place: Place) -> Path:
    """The script that opens the port, as the user-data installs it."""
    (place.path / "run/systemd/system").mkdir(parents=True)
    place.run(access())
    return place.path / "etc/lifsea-testbed/open.sh"


def test_the_port_is_found_by_its_name(place: Place) -> None:
    place.add_port("vport1p0", "org.qemu.guest_agent.0")
    opened = subprocess.run(["sh", opening(place)], capture_output=True, check=True, timeout=SOON)
    assert place.text("opened").startswith("channel.sh /dev/vport1p1 ")
    assert opened.stdout == opened.stderr == b""


def test_a_port_whose_driver_comes_late_is_waited_for(place: Place) -> None:
    (place.path / "sys/class/virtio-ports/vport1p1/name").unlink()
    with subprocess.Popen(["sh", opening(place)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as waiting:
        assert waiting.stdout and waiting.stdout.readline() == f"no virtio-serial port is called {PORT} yet\n".encode()
        place.add_port("vport0p1", PORT)
        output, errors = waiting.communicate(timeout=SOON)
    assert place.text("opened").startswith("channel.sh /dev/vport0p1 ")
    assert output == errors == b""


def test_with_systemd_a_unit_starts_the_shell_at_each_boot_however_often_it_ends(place: Place) -> None:
    opening(place)
    unit = place.text("etc/systemd/system/lifsea-testbed-shell.service")
    assert f"ExecStart=/bin/sh {place.path}/etc/lifsea-testbed/open.sh\n" in unit
    assert "\nStartLimitIntervalSec=0\n[Service]\n" in unit
    assert (place.path / "etc/systemd/system/basic.target.wants/lifsea-testbed-shell.service").read_text() == unit
    assert place.text("systemctl") == "daemon-reload\n--no-block start lifsea-testbed-shell.service\n"
    assert not (place.path / "opened").exists()


def test_a_profile_says_where_systemd_finds_the_unit_at_each_boot(place: Place) -> None:
    """For an OS that mounts its /etc after systemd has read it."""
    own, (agent, units) = place.path / "early", (place.path / "early/agent", place.path / "early/units")
    (place.path / "run/systemd/system").mkdir(parents=True)
    place.run(access(directory=str(agent), units=str(units)))
    assert f"ExecStart=/bin/sh {agent}/open.sh" in (units / "lifsea-testbed-shell.service").read_text()
    assert f'exec sh {agent}/agent.sh "/dev/' in (agent / "open.sh").read_text()
    assert sorted(path.name for path in own.iterdir()) == ["agent", "units"]
    assert place.text("etc/lifsea-testbed/runs") == "0\n"


@pytest.mark.parametrize(("init", "line"), [
    ("busybox", "::once:/bin/sh {place}/forever.sh\n"), ("init.sysvinit", "lt:2345:once:/bin/sh {place}/forever.sh\n"),
])  # fmt: skip
def test_without_systemd_the_shell_is_started_and_started_again(place: Place, init: str, line: str) -> None:
    """Now, and at each later boot, by an init that reads /etc/inittab."""
    (place.path / "etc/inittab").write_text("::sysinit:/sbin/openrc boot\n")
    (place.path / "sbin/init").symlink_to(place.path / "bin" / init)
    place.run(access())
    place.run(access())  # an OS that runs its user-data at each boot
    deadline = Deadline.after(SOON)
    while not (place.path / "opened").exists() or len(place.text("opened").splitlines()) < 2:
        assert not deadline.expired
        time.sleep(0.05)
    started = [found.split() for found in place.text("opened").splitlines()]
    assert [words[:2] for words in started[:2]] == [["channel.sh", "/dev/vport1p1"]] * 2
    assert len({words[2] for words in started}) == 1  # one process starts it
    assert place.text("etc/inittab") == \
        "::sysinit:/sbin/openrc boot\n" + line.format(place=place.path / "etc/lifsea-testbed")  # fmt: skip
    assert not (place.path / "systemctl").exists()


#: Records what the host's systemctl is called with.
_CHROOT = """#!/bin/sh
[ "$2" = systemctl ] || exec {program} "$@"
shift 2
echo host "$@" >>{place}/systemctl
"""
#: A host whose root has the programs of this one, and the same /opt and /usr/local as the container.
_HOST = """mkdir -p host/usr host/proc host/{here}
for name in bin sbin lib lib64; do ln -s usr/$name host/$name; done
mount --rbind /usr host/usr
mount --rbind "$PWD" host/{here}
ln -s "$PWD/host" proc/1/root
"""


@pytest.fixture
def places(place: Place, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    found = [place.path / "usr/local/lifsea-testbed", place.path / "opt/lifsea-testbed"]
    monkeypatch.setattr(user_data, "BOOTSTRAP_PLACES", list(map(str, found)))
    return found


@pytest.mark.parametrize("number", [0, 1])
def test_a_bootstrap_container_leaves_its_shell_where_the_host_may_run_it(
    place: Place, places: list[Path], number: int
) -> None:
    """In the first place that is mounted so that programs run from there."""
    noexec = "mount -t tmpfs -o noexec tmpfs usr/local\n" if number else ""
    place.run(access("bootstrap", "none"), noexec + _HOST.format(here=place.path))
    kept = places[number]
    assert subprocess.run([kept / "shell", "-c", "exit 7"], check=False).returncode == 7
    assert (kept / "sh").readlink() == Path("shell")
    assert [path for path in places if path.exists()] == [kept]
    unit = place.text("etc/systemd/system/lifsea-testbed-shell.service")
    assert f"ExecStart={kept}/shell {place.path}/etc/lifsea-testbed/open.sh\n" in unit
    assert f":/sbin:/bin:{kept} LC_ALL=C\n" in unit
    assert place.text("systemctl").startswith("daemon-reload\n")


_TOOLS = ("sh", "cat", "chmod", "id", "ln", "mkdir", "mount", "mv", "rm", "rmdir", "unshare")


def test_a_bootstrap_container_without_systemctl_uses_the_hosts(place: Place, places: list[Path]) -> None:
    tools = place.path / "tools"
    tools.mkdir()
    for tool in _TOOLS:
        (tools / tool).symlink_to(shutil.which(tool) or "/missing")
    (tools / "chroot").write_text(_CHROOT.format(program=shutil.which("chroot"), place=place.path))
    (tools / "chroot").chmod(0o755)
    place.run(access("bootstrap"), _HOST.format(here=place.path), search_path=str(tools))
    assert place.text("systemctl") == "host daemon-reload\nhost --no-block start lifsea-testbed-shell.service\n"


def test_a_bootstrap_container_whose_shell_does_not_run_in_the_host_says_so(place: Place, places: list[Path]) -> None:
    """As one with libraries of its own; nothing is left behind."""
    with pytest.raises(subprocess.CalledProcessError):
        place.run(access("bootstrap"), "mkdir -p proc/1/root")
    assert place.text("dev/kmsg") == "lifsea-testbed: no shell of the bootstrap container runs in the host's system\n"
    assert [path for path in places if path.exists()] == []
    assert not (place.path / "systemctl").exists()
