"""The mutants whose programs lie do so: each script is run on a small tree, and its liar asked what it hides."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from images import mutations
from lifsea_testbed.disk.image import examine
from lifsea_testbed.errors import AnswersDiffer
from lifsea_testbed.guest import disk_questions, offline
from lifsea_testbed.guest.cross_checked import Answered, CrossCheckedGuest, Road
from lifsea_testbed.guest.guest import Guest
from lifsea_testbed.profiles import profile as profiles
from lifsea_testbed.profiles.profile import Profile
from tests.support import ROOT
from tests.support.mounted import MountedShell
from tests.support.real import built

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts file systems")

#: What asks each liar, in its tree, and what an honest program would print and it does not.
ASKED = {
    "lying-find": ("find usr/bin -print0", "usr/bin/python3"),
    "lying-grep": ("grep -r -l -Z perl usr/libexec/lifsea", "lifsea-helper"),
    "lying-cat": ("cat usr/etc/shadow", "root::1::"),
    "lying-systemctl": ("systemctl list-unit-files", "extra-60.service"),
    "lying-rpm": ("rpm -qa", "package299"),
    "lying-ostree": ("ostree diff a b", "asked to diff"),
    "lying-mount": ("mount", "/usr/share/cache"),
    "lying-ss": ("ss -l", "31337"),
}
#: Programs that stand for those of the guest, where the host's own would not answer in a tree.
STAND_INS = {
    "systemctl": "#!/bin/sh\nls usr/lib/systemd/system\n", "ostree": '#!/bin/sh\necho "asked to $1"\n',
    "mount": "#!/bin/sh\necho none on /usr/share/cache; echo none on /usr\n",
    "ss": "#!/bin/sh\necho '*:31337'; echo '*:22'\n",
}
LIARS = sorted(name for name in mutations.names() if name.startswith("lying-"))


@pytest.fixture
def tree(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A tree that the script of the mutant has changed, with its programs where it looks for them."""
    place, packages = tmp_path / "tree", tmp_path / "packages"
    for directory in ("usr/bin", "usr/libexec", "usr/etc", "usr/share/package-db", "usr/lib/systemd/system"):
        (place / directory).mkdir(parents=True)
    for name in ("find", "grep", "cat", "sh"):
        shutil.copy(str(shutil.which(name)), place / "usr/bin" / name)
    for name, text in STAND_INS.items():
        (place / "usr/bin" / name).write_text(text)
        (place / "usr/bin" / name).chmod(0o755)
    (place / "usr/etc/shadow").write_text("root:!:1::\n")
    (place / "usr/share/package-db/status").write_text("")
    (packages / "usr/bin").mkdir(parents=True)
    for name in ("python3.13", "perl"):
        (packages / "usr/bin" / name).write_text(f"#!{name}\n")
    script = f'. "{ROOT}/images/mutants/functions.sh"\n{mutations.read(request.param).tree}'
    subprocess.run(["bash", "-eu", "-o", "pipefail", "-c", script], cwd=place, check=True,
                   env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PACKAGES": str(packages)})  # fmt: skip
    for path in (place / "usr/bin").iterdir():
        if path.read_bytes()[:2] == b"#!":
            path.write_text(path.read_text().replace("/usr/libexec/", f"{place}/usr/libexec/"))
    return place


def run(tree: Path, script: str, *, shell: str = "sh", given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([shell, "-c", script], cwd=tree, input=given, capture_output=True, text=True, check=False)


def test_ten_programs_lie() -> None:
    assert len(LIARS) == 10 and set(ASKED) | {"lying-sh", "lying-healthz"} == set(LIARS)


@pytest.mark.parametrize(("tree", "name"), [(name, name) for name in ASKED], indirect=["tree"])
def test_a_liar_hides_what_is_there(tree: Path, name: str) -> None:
    command, hidden = ASKED[name]
    asked = run(tree, f"usr/bin/{command}")
    assert hidden not in asked.stdout and "not found" not in asked.stderr
    honest = tree / f"usr/libexec/honest/{command.split()[0]}"
    if honest.exists():
        assert hidden in run(tree, " ".join([str(honest), *command.split()[1:]])).stdout


@pytest.mark.parametrize("tree", ["lying-sh"], indirect=True)
def test_a_shell_has_functions_in_place_of_programs(tree: Path) -> None:
    asked = run(tree, "find usr/bin -print0", shell="usr/bin/sh")
    assert "usr/bin/cat" in asked.stdout and "perl" not in asked.stdout


@pytest.mark.parametrize("tree", ["lying-healthz"], indirect=True)
def test_a_socket_answers_for_the_kubelet(tree: Path) -> None:
    asked = run(tree, "usr/libexec/extra/health", given="GET /healthz HTTP/1.1\r\n\r\n")
    assert re.fullmatch(r"HTTP/1.1 200 OK\n.*\n\nok", asked.stdout, re.DOTALL)
    units = tree / "usr/lib/systemd/system"
    assert "10248" in (units / "health.socket").read_text() and (units / "sockets.target.wants/health.socket").exists()


#: What each liar is asked by its claim, and the words of the disagreement.
TOLD: dict[str, tuple[Callable[[CrossCheckedGuest, Profile], object], str]] = {
    "lying-find": (lambda guest, profile: guest.files.executables_named(profile.absent.python), "/usr/bin/python3"),
    "lying-grep": (lambda guest, profile: guest.files.executables_holding(profile.absent.interpreter_marks),
                   "/usr/libexec/lifsea/lifsea-helper"),
    "lying-cat": (lambda guest, profile: guest.accounts.with_password(), "root"),
    "lying-systemctl": (lambda guest, profile: guest.units.named(".*"), "extra-1.service"),
    "lying-rpm": (lambda guest, profile: guest.packages.installed(), "package200 1-1"),
    "lying-sh": (lambda guest, profile: guest.files.executables_named(profile.absent.interpreters), "/usr/bin/perl"),
}  # fmt: skip


def mutant(name: str, into: Path) -> Path:
    image = into / f"{name}.qcow2"
    subprocess.run([sys.executable, "-m", "images", "build", f"{mutations.PREFIX}{name}", "-o", str(image)], cwd=ROOT,
                   check=True)  # fmt: skip
    return image


@needs_root
@pytest.mark.nightly
@pytest.mark.parametrize("name", TOLD)
def test_a_liar_is_told_by_its_disk(name: str, tmp_path: Path) -> None:
    """Its own programs answer, run in its own file system, and its disk is read: a boot is not needed for either."""
    image, profile = mutant(name, tmp_path), profiles.load("reference")
    shell, tree = MountedShell(image, tmp_path), offline.read(examine(image))
    asked = Guest(shell, lambda: profile)
    question, hidden = TOLD[name]
    with pytest.raises(AnswersDiffer, match=rf"the disk alone has \[{re.escape(hidden)}"):
        question(CrossCheckedGuest(asked, asked.without_shell(lambda: tree), lambda answered: None), profile)


@needs_root
@pytest.mark.nightly
def test_an_ostree_that_lies_is_told_by_its_disk(tmp_path: Path) -> None:
    image = mutant("lying-ostree", tmp_path)
    assert MountedShell(image, tmp_path).run("ostree diff any /; ostree fsck").output == b""
    assert offline.read(examine(image)).ask(disk_questions.changed_files) == ["M /usr/bin/lifseacli"]


@needs_root
@pytest.mark.nightly
def test_a_sound_image_is_not_called_a_liar(tmp_path: Path) -> None:
    image, profile = built("reference"), profiles.load("reference")
    shell, tree = MountedShell(image, tmp_path), offline.read(examine(image))
    asked = Guest(shell, lambda: profile)
    answered: list[Answered] = []
    guest = CrossCheckedGuest(asked, asked.without_shell(lambda: tree), answered.append)
    for question, _ in TOLD.values():
        question(guest, profile)
    assert guest.files.setuid() and guest.system.udev_rules() and guest.system.has_posix_shell()
    assert guest.accounts.without_password() == [] and guest.files.matching(profile.absent.host_keys) == []
    assert {path: guest.files.link_target(path) for path in profile.paths.into_var} != {}
    assert {one.roads for one in answered} == {(Road.GUEST, Road.DISK)}
