"""A baseline holds later images to what a released one has, and loosens nothing; from a shell, or from the disk."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import suites.test_access
import suites.test_boot
import suites.test_contents
from lifsea_testbed.cli.main import main
from lifsea_testbed.disk.image import Image, examine
from lifsea_testbed.errors import NotJudged, Reason
from lifsea_testbed.guest import offline
from lifsea_testbed.guest.guest import Guest
from lifsea_testbed.guest.network import unlisted
from lifsea_testbed.perf.metric import Measure
from lifsea_testbed.profiles import profile as profiles
from lifsea_testbed.profiles.baseline import Baseline
from lifsea_testbed.profiles.profile import Profile
from lifsea_testbed.scenarios import baseline
from lifsea_testbed.scenarios.baseline import READINGS, listener_patterns
from lifsea_testbed.scenarios.cross_check import CrossCheck
from tests.guest.test_offline import NoShell
from tests.suites.test_suites import SOUND
from tests.support import disks
from tests.support.boot_sector import raw_image
from tests.support.guests import FakeGuest

PORTS = ["tcp 127.0.0.1:10248 kubelet", "tcp 127.0.0.1:40123 containerd", "udp 172.16.3.7:68 systemd-network",
         "udp fe80::1:546 systemd-network", "tcp :::10250 kubelet", "udp ::1:323 chronyd"]  # fmt: skip
SETUID = ["/usr/bin/su", "/usr/lib/dbus-daemon-launch-helper"]
HAS = {"units_many": 90, "system.udev_rules": ["rule"] * 40, "packages": 180, "files.setuid": SETUID,
       "network.open_ports": PORTS}  # fmt: skip
MIB = 1 << 20


class Ports:
    """The open ports of a fake guest, judged as the real one judges them."""

    def __init__(self, ports: list[str]) -> None:
        self._ports = ports

    def open_ports(self) -> list[str]:
        return self._ports

    def unlisted_ports(self, allowed: list[str]) -> list[str]:
        return unlisted(self._ports, allowed)


def no_shell() -> list[str]:
    raise NotJudged("the image has no shell", Reason.IMAGE)


def guest(**traits: Any) -> Any:
    has = {**SOUND, **HAS, **{name.replace("__", "."): value for name, value in traits.items()}}
    made: Any = FakeGuest(has, profiles.load("reference"))
    made.network = Ports(has["network.open_ports"])
    return made


def image(path: Path, size: int = 40 * MIB) -> Any:
    return SimpleNamespace(path=path, compressed_size=size, file_size=size, fits_into=lambda most: size <= most)


def read(made: Any, disk: Any, extends: str = "lifsea-3.3", *later: Any) -> Baseline:
    """The baseline of a guest, by what it is at first and, later, others are."""
    base = profiles.load(extends)
    seen = [baseline.observe(moment, disk, base) for moment in (made, *later)]
    return baseline.conclude(seen, base, extends=extends, source="it")


def taken(tmp_path: Path, extends: str = "lifsea-3.3", **traits: Any) -> Baseline:
    return read(guest(**traits), image(tmp_path), extends)


def written(tmp_path: Path, extends: str = "lifsea-3.3", **traits: Any) -> Profile:
    path = tmp_path / "my-os.toml"
    path.write_text(taken(tmp_path, extends, **traits).profile(path))
    return profiles.load(str(path))


def judges(profile: Profile, size: int, **traits: Any) -> dict[str, Callable[[], None]]:
    """The tests of the suites that judge what a baseline holds, on a guest with those traits."""
    machine: Any = SimpleNamespace(guest=guest(**traits), wait_until_ready=lambda: None)
    bench: Any = SimpleNamespace(image=image(Path(), size))
    measure, unchecked = Measure(), cast(CrossCheck, lambda one: one.guest)
    return {
        "few-units": lambda: suites.test_boot.test_there_are_few_units(machine, unchecked, profile, measure),
        "few-udev-rules": lambda: suites.test_boot.test_there_are_few_udev_rules(machine, unchecked, profile),
        "image-small": lambda: suites.test_contents.test_the_image_is_small(bench, profile, measure),
        "packages-about-200":
            lambda: suites.test_contents.test_there_are_about_200_packages(machine, unchecked, profile, measure),
        "no-surprise-listeners": lambda: suites.test_access.test_only_known_programs_take_what_comes(machine, profile),
        "setuid-known":
            lambda: suites.test_access.test_only_known_files_give_privileges(machine, unchecked, profile),
    }  # fmt: skip


@pytest.mark.parametrize("claim", [reading.claim for reading in READINGS])
def test_the_image_itself_keeps_its_baseline(tmp_path: Path, claim: str) -> None:
    profile = written(tmp_path)
    assert claim in profile.claims
    judges(profile, 40 * MIB)[claim]()


@pytest.mark.parametrize(("claim", "size", "more"), [
    ("few-units", 40 * MIB, {"units_many": 91}), ("few-udev-rules", 40 * MIB, {"system__udev_rules": ["rule"] * 41}),
    ("image-small", 40 * MIB + 1, {}), ("packages-about-200", 40 * MIB, {"packages": 181}),
    ("no-surprise-listeners", 40 * MIB, {"network__open_ports": [*PORTS, "tcp 0.0.0.0:2222 kubelet"]}),
    ("no-surprise-listeners", 40 * MIB, {"network__open_ports": [*PORTS, "tcp 172.16.3.7:40123 containerd"]}),
    ("setuid-known", 40 * MIB, {"files__setuid": [*SETUID, "/usr/bin/dash"]}),
], ids=lambda value: str(value)[:40])  # fmt: skip
def test_an_image_that_has_more_breaks_it(tmp_path: Path, claim: str, size: int, more: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        judges(written(tmp_path), size, **more)[claim]()


def test_another_machine_of_the_same_image_keeps_it(tmp_path: Path) -> None:
    """Its addresses, and the ports that the kernel gave, are others."""
    other = [port.replace("172.16.3.7", "10.0.0.9").replace("40123", "51000").replace("fe80::1", "fe80::ab:2")
             for port in PORTS]  # fmt: skip
    judges(written(tmp_path), 40 * MIB, network__open_ports=other)["no-surprise-listeners"]()


def test_the_patterns_match_what_they_were_made_of_and_no_other_program() -> None:
    assert listener_patterns(PORTS) == [
        r"tcp 127\.0\.0\.1:10248 kubelet", r"tcp 127\.0\.0\.1:\d+ containerd", r"udp [\d.]+:68 systemd-network",
        r"udp [\da-f:]+:546 systemd-network", "tcp :::10250 kubelet", "udp ::1:323 chronyd",
    ]  # fmt: skip
    assert listener_patterns(["tcp 127.0.0.1:1 a+(b"]) == [r"tcp 127\.0\.0\.1:1 a\+\(b"]
    assert unlisted(["tcp 127.0.0.1:10248 sshd", "tcp 127x0.0.1:10248 kubelet"], listener_patterns(PORTS)) != []


@pytest.mark.parametrize(("traits", "key", "claim"), [
    ({"units_many": 151}, "budget.units", "few-units"),
    ({"system__udev_rules": ["rule"] * 231}, "budget.udev_rules", "few-udev-rules"),
    ({"packages": 221}, "packages.most", "packages-about-200"),
    ({"packages": 149}, "packages.most", "packages-about-200"),
    ({"files__setuid": ["/usr/bin/dash"]}, "security.setuid", "setuid-known"),
    ({"network__open_ports": ["tcp 0.0.0.0:22 sshd"]}, "security.listeners", "no-surprise-listeners"),
], ids=lambda value: str(value)[:40])  # fmt: skip
def test_a_promise_that_the_profile_makes_is_not_loosened(
    tmp_path: Path, traits: dict[str, Any], key: str, claim: str
) -> None:
    found, base = taken(tmp_path, "reference", **traits), profiles.load("reference")
    assert found.left[key] == f"the image breaks {claim} as reference promises it, which is not loosened"
    section, _, name = key.partition(".")
    kept = written(tmp_path, "reference", **traits)
    assert getattr(getattr(kept, section), name) == getattr(getattr(base, section), name)


def test_an_image_is_read_at_the_moments_at_which_the_suites_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What opens late is known to be open; what is counted is counted after the boot, as the suites do."""
    machine, early, late = SimpleNamespace(), SimpleNamespace(guest=guest()), SimpleNamespace(guest=guest(
        network__open_ports=[*PORTS, "tcp 0.0.0.0:9100 exporter"], units_many=91))  # fmt: skip
    monkeypatch.setattr(baseline, "watch", lambda *given: early if given == (machine, 30.0) else None)
    monkeypatch.setattr(baseline, "bring_forward", lambda *given: late)
    made = image(tmp_path / "out.qcow2")
    made.sha256 = "abc"
    factory: Any = SimpleNamespace(
        profile=profiles.load("lifsea-3.3"), context=SimpleNamespace(profile="lifsea-3.3"), image=made,
        image_version="3.3.0", create=lambda spec: contextlib.nullcontext(machine))  # fmt: skip
    found = baseline.take(factory)
    assert (found.source, found.extends) == ("out.qcow2, sha256 abc, VERSION_ID 3.3.0", "lifsea-3.3")
    values = {figure.key: figure.value for figure in found.figures}
    assert values["security.listeners"] == [*listener_patterns(PORTS), r"tcp 0\.0\.0\.0:9100 exporter"]
    assert (values["budget.units"], values["security.setuid"]) == (90, SETUID)


def test_what_can_be_read_at_one_moment_alone_is_taken(tmp_path: Path) -> None:
    made = guest()
    made.network.open_ports = no_shell
    found = read(made, image(tmp_path), "lifsea-3.3", guest())
    assert found.left == {} and "no-surprise-listeners" in found.added


def test_a_profile_that_does_not_promise_few_packages_is_not_made_to(tmp_path: Path) -> None:
    assert "packages-about-200" not in written(tmp_path, "alinux-3", packages=900).claims


def test_what_cannot_be_read_is_left_out_with_the_reason(tmp_path: Path) -> None:
    made = guest()
    made.network.open_ports = no_shell
    found = read(made, image(tmp_path))
    assert found.left == {"security.listeners": "it cannot be read: the image has no shell"}
    assert "no-surprise-listeners" not in found.added


def test_an_image_without_a_shell_is_read_on_its_disk(tmp_path: Path) -> None:
    files = {
        "etc/os-release": "ID=x\n", "usr/lib/systemd/system/a.service": "", "etc/systemd/system/b.timer": "",
        "usr/lib/udev/rules.d/1.rules": "# no rule\nSUBSYSTEM==\"a\"\n", "etc/udev/rules.d/2.rules": "A\\\nB\nC\n",
        "usr/bin/su!": "", "var/lib/dpkg/status": "Package: a\nVersion: 1\n" * 1,
    }  # fmt: skip
    path = disks.disk(tmp_path / "disk.raw", root=disks.fill(tmp_path / "root", files))
    shell: Any = NoShell()
    made = Guest(shell, lambda: profiles.load("lifsea-3.5")).without_shell(lambda: offline.read(examine(path)))
    found = read(made, examine(path), "lifsea-3.5")
    assert {figure.key: figure.value for figure in found.figures} == {
        "image.most": 1, "budget.units": 2, "budget.udev_rules": 3, "security.setuid": ["/usr/bin/su"],
    }  # fmt: skip
    assert sorted(found.left) == ["packages.most", "security.listeners"]


def test_the_compressed_size_is_the_least_that_the_image_fits_into(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(bytes(5 * MIB) + bytes(range(256)) * 4096)
    made = Image(path=path, format=examine(raw_image(tmp_path / "disk.raw")).format, virtual_size=6 * MIB,
                 file_size=6 * MIB, stamp=(0, 0, 0))  # fmt: skip
    assert made.compressed_size < MIB and made.fits_into(made.compressed_size)
    assert not made.fits_into(made.compressed_size - 1)
    assert replace(made, file_size=7).compressed_size == 7


@pytest.mark.parametrize(("output", "complaint"), [
    ("there.toml", "there.toml: exists already, and is never replaced"), ("x", "x: a profile is a .toml file")])
def test_the_output_is_checked_before_anything_boots(
    tmp_path: Path, output: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "there.toml").write_text("mine")
    disk = raw_image(tmp_path / "disk.raw")
    assert main(["baseline", "--image", str(disk), "--profile", "reference", "-o", str(tmp_path / output)]) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line and (tmp_path / "there.toml").read_text() == "mine"
