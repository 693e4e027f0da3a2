"""Without a shell, a guest reads from its disk what the disk holds; everything else is not judged."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from lifsea_testbed.console.channel import NoChannel
from lifsea_testbed.disk import image
from lifsea_testbed.errors import CallerError, DiskDamaged, NotJudged
from lifsea_testbed.guest import offline
from lifsea_testbed.guest.guest import Guest
from lifsea_testbed.guest.packages import Package
from lifsea_testbed.profiles import profile as profiles
from lifsea_testbed.profiles.profile import Profile
from lifsea_testbed.support.deadline import Deadline
from lifsea_testbed.support.protocols import CommandResult, Shell
from tests.support import disks
from tests.support.fakes import FakeShell

SYSTEM: dict[str, str | bytes] = {
    "etc/os-release": "ID=x\n", "usr/bin/dash*": "mark", "bin/sh": "-> /usr/bin/dash", "usr/bin/su!": "",
    "etc/shadow": "root::1::\n", "etc/passwd": "toor:x:0:0::/:\n", "usr/lib/pam.d/su": "auth required pam_permit.so\n",
    "etc/systemd/system/getty@.service.d/a.conf": "[Service]\nExecStart=-/sbin/agetty --autologin root - linux\n",
    "usr/lib/systemd/system/shell.service": "[Service]\nExecStart=/bin/bash\nStandardInput=tty-force\n",
    "usr/lib/systemd/system/unused.service": "[Service]\nExecStart=/bin/bash\nStandardInput=tty-force\n",
    "etc/systemd/system/a.target.wants/shell.service": "-> /usr/lib/systemd/system/shell.service",
    "usr/lib/systemd/system/a.service": "", "home": "-> var/home",
    "boot/grub/grub.cfg": "initrd /i\n", "usr/share/packages": "Package: a\nStatus: install ok installed\nVersion: 1\n",
}  # fmt: skip
PROFILE = profiles.load("reference")


class NoShell:
    """The shell of a machine whose image offers none."""

    def run(self, command: str | Sequence[str], *, check: bool = True, within: float = 20.0,
            input: bytes = b"") -> CommandResult:
        script = command if isinstance(command, str) else shlex.join(command)
        NoChannel().run(script, input=input, deadline=Deadline.after(within))
        raise AssertionError("the channel ran a script")


def without_shell(tree: Callable[[], offline.OfflineTree]) -> Guest:
    packages = PROFILE.packages.model_copy(update={"databases": ["/usr/share/packages"]})
    return Guest(NoShell(), lambda: PROFILE.model_copy(update={"packages": packages})).without_shell(tree)


def damaged() -> offline.OfflineTree:
    raise DiskDamaged("no superblock")


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Guest:
    place = tmp_path_factory.mktemp("disk")
    path = disks.disk(place / "disk.raw", root=disks.fill(place / "root", SYSTEM))
    return without_shell(lambda: offline.read(image.examine(path)))


@pytest.mark.parametrize(("question", "answer"), [
    (lambda guest: guest.system.os_release(), {"ID": "x"}), (lambda guest: guest.system.has_posix_shell(), True),
    (lambda guest: guest.packages.installed(), [Package(name="a", version="1")]),
    (lambda guest: guest.files.executables_named(["s.", "dash"]), ["/usr/bin/dash", "/usr/bin/su"]),
    (lambda guest: guest.files.executables_holding(["mark"]), ["/usr/bin/dash"]),
    (lambda guest: guest.files.programs_holding(["mark"]), ["/usr/bin/dash"]),
    (lambda guest: guest.files.setuid(), ["/usr/bin/su"]),
    (lambda guest: guest.files.matching(["getty*", "a.*onf"]), ["/etc/systemd/system/getty@.service.d/a.conf"]),
    (lambda guest: guest.files.holding(["Package: a"]), ["/usr/share/packages"]),
    (lambda guest: guest.files.link_target("/home"), "/var/home"),
    (lambda guest: guest.units.named(r"a.*\.service"), ["a.service"]),
    (lambda guest: guest.kernel.initramfs_signs(), ["/boot/grub/grub.cfg:initrd /i"]),
    (lambda guest: guest.accounts.with_password(), ["root", "toor (user identifier 0)"]),
    (lambda guest: guest.accounts.without_password(), ["su (pam_permit)"]),
    (lambda guest: guest.accounts.automatic_logins(), ["/etc/systemd/system/getty@.service.d/a.conf",
                                                       "/usr/lib/systemd/system/shell.service"]),
])  # fmt: skip
def test_the_disk_answers_for_what_it_holds(guest: Guest, question: Callable[[Guest], object], answer: object) -> None:
    assert question(guest) == answer


@pytest.mark.parametrize("question", [
    lambda guest: guest.files.writable_paths(), lambda guest: guest.files.read("/etc/os-release"),
    lambda guest: guest.packages.writable_databases(),
    lambda guest: guest.units.are_started(), lambda guest: guest.units.failed(), lambda guest: guest.kernel.errors(),
    lambda guest: guest.system.host_name(), lambda guest: guest.system.identity(),
    lambda guest: guest.deployments.booted(), lambda guest: guest.network.ssh_listeners(),
    lambda guest: guest.disks.root(), lambda guest: guest.hardware.dmi(), lambda guest: guest.clock.ahead(),
    lambda guest: guest.runtime.status(), lambda guest: guest.kubelet.health(),
    lambda guest: guest.services.state("a.service"), lambda guest: guest.operations.start(),
    lambda guest: guest.boot_times.monotonic(),
])  # fmt: skip
def test_everything_else_is_not_judged_however_the_disk_is(question: Callable[[Guest], object]) -> None:
    with pytest.raises(NotJudged, match="offers no shell: only what the disk holds can be read"):
        question(without_shell(damaged))


def test_a_program_of_the_test_beds_own_is_not_the_images(tmp_path: Path) -> None:
    files = {**SYSTEM, "var/local/own*": "mark", "usr/local": "-> ../var/local"}
    path = disks.disk(tmp_path / "disk.raw", root=disks.fill(tmp_path / "root", files))
    guest = Guest(NoShell(), lambda: PROFILE, own_files=lambda: ["/usr/local/own"])
    read = guest.without_shell(lambda: offline.read(image.examine(path))).files
    assert read.programs_holding(["mark"]) == read.executables_holding(["mark"]) == ["/usr/bin/dash"]


BUS = {
    "usr/share/dbus-1/system.conf": '<busconfig><policy context="default"><deny own="*"/></policy>\n'
                                    '<includedir>system.d</includedir></busconfig>\n',
    "usr/share/dbus-1/system.d/seats.conf": '<policy user="root">\n<allow own="org.freedesktop.login1"/></policy>\n',
    "etc/dbus-1/system.d/own.conf": '<policy user="x"><allow send_path="/" own_prefix=\'org.own\'/></policy>',
}  # fmt: skip


@pytest.fixture
def built(tmp_path: Path) -> Callable[[dict[str, str | bytes]], Guest]:
    """Makes a guest without a shell whose disk has those files."""
    def make(files: dict[str, str | bytes]) -> Guest:
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        path = disks.disk(place / "disk.raw", root=disks.fill(place / "root", SYSTEM | files))
        return without_shell(lambda: offline.read(image.examine(path)))

    return make


def test_a_bus_name_that_no_policy_allows_is_nobodys(built: Callable[[dict[str, str | bytes]], Guest]) -> None:
    """Whether a name that one allows is taken is not on the disk."""
    guest = built({**BUS})
    for name in ("org.freedesktop.resolve1", "org.freedesktop.login", "org.owner"):
        assert not guest.units.has_bus_name(name)
    for name, file in (("org.freedesktop.login1", "/usr/share/dbus-1/system.d/seats.conf"),
                       ("org.own", "/etc/dbus-1/system.d/own.conf"), ("org.own.a", "/etc/dbus-1/system.d/own.conf")):
        with pytest.raises(NotJudged, match=rf"has the name {name} on the system bus, which {file} allows"):
            guest.units.has_bus_name(name)


@pytest.mark.parametrize(("files", "why"), [
    ({}, "no policy of a system bus"),
    ({**BUS, "etc/dbus-1/system-local.conf": "<includedir>/opt/bus</includedir>"}, "system-local.conf allows"),
    ({**BUS, "etc/dbus-1/system.conf": '<allow own="*"/>'}, "/etc/dbus-1/system.conf allows"),
])  # fmt: skip
def test_a_bus_whose_policy_is_not_known_is_not_judged(
    built: Callable[[dict[str, str | bytes]], Guest], files: dict[str, str | bytes], why: str
) -> None:
    with pytest.raises(NotJudged, match=why):
        built(files).units.has_bus_name("org.freedesktop.resolve1")


def test_modules_that_are_nowhere_are_not_loaded(built: Callable[[dict[str, str | bytes]], Guest]) -> None:
    """Whether one that could be loaded was loaded is not on the disk, nor what an initramfs brings."""
    entry = {"boot/grub/grub.cfg": "linux /vmlinuz\n", "usr/lib/modules/6.1/kernel/drivers/net/virtio-net.ko.xz": ""}
    guest = built({**entry})
    assert guest.kernel.loaded_modules(["ext4", "net_failover"]) == []
    with pytest.raises(NotJudged, match=r"there are some to load: /usr/lib/modules/6\.1/.*/virtio-net\.ko\.xz"):
        guest.kernel.loaded_modules(["virtio_net"])
    with pytest.raises(NotJudged, match=r"there are some to load: /boot/grub/grub\.cfg:initrd /i"):
        built({}).kernel.loaded_modules(["ext4"])


def test_a_damaged_disk_shows_when_it_is_read() -> None:
    with pytest.raises(DiskDamaged):
        without_shell(damaged).system.os_release()


class Gpu:
    """A subject of a user's own."""

    def __init__(self, shell: Shell, profile: Profile) -> None:
        self._shell, self._profile = shell, profile

    def driver(self) -> str:
        return f"{self._profile.name}: {self._shell.run('gpu --version').stdout}"


def test_a_plugin_adds_a_subject() -> None:
    guest = Guest(FakeShell({"gpu": "7"}), lambda: PROFILE, subjects={"gpu": Gpu})
    gpu = guest.subject("gpu")
    assert isinstance(gpu, Gpu) and gpu.driver() == "reference: 7"


def test_a_plugins_subject_has_no_shell_either_where_there_is_none() -> None:
    gpu = Guest(NoShell(), lambda: PROFILE, subjects={"gpu": Gpu}).without_shell(damaged).subject("gpu")
    assert isinstance(gpu, Gpu)
    with pytest.raises(NotJudged):
        gpu.driver()


@pytest.mark.parametrize(("registered", "hint"), [(("raid", "gpu"), "registered are: gpu, raid"),
                                                  ((), "registered are: none")])  # fmt: skip
def test_an_unknown_subject_is_an_error_of_the_caller(registered: tuple[str, ...], hint: str) -> None:
    guest = Guest(FakeShell({}), lambda: PROFILE, subjects=dict.fromkeys(registered, Gpu))
    with pytest.raises(CallerError, match="the guest subject 'tpu'") as caught:
        guest.subject("tpu")
    assert caught.value.hint == hint


def test_files_are_listed_once() -> None:
    shell = FakeShell({"find /": "755 /usr/bin/a\0"})
    guest = Guest(shell, lambda: PROFILE)
    assert guest.files.executables_named(["a"]) == ["/usr/bin/a"] and guest.files.executables_named(["b"]) == []
    assert len(shell.scripts) == 1


def test_the_profile_is_read_at_each_use() -> None:
    """The profile is chosen by os-release, which is read from the guest."""
    shell, chosen = FakeShell({"sha256sum": ""}), [PROFILE]
    guest = Guest(shell, lambda: chosen[-1])
    guest.system.identity()
    nodes = PROFILE.nodes.model_copy(update={"differ": ["/etc/other"]})
    chosen.append(PROFILE.model_copy(update={"nodes": nodes}))
    guest.system.identity()
    assert "/etc/other" in shell.scripts[1] and "/etc/other" not in shell.scripts[0]
