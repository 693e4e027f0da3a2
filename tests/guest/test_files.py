"""Searches of the guest's files look at content, not at names and modes: run by a real shell on a directory."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from lifsea_testbed.errors import NotJudged, Reason
from lifsea_testbed.guest import capabilities, formats
from lifsea_testbed.guest.files import Files
from lifsea_testbed.guest.formats import FileHead
from lifsea_testbed.support.protocols import CommandResult
from tests.support.fakes import FakeShell

ELF = b"\x7fELF\x02\x01\x01\0"


class LocalShell:
    """Runs scripts on this host, with a directory of it in the place of the guest's root."""

    def __init__(self, root: Path, path: str = os.environ["PATH"]) -> None:
        self._root, self._path = root, path

    def run(self, command: str | Sequence[str], *, check: bool = True, within: float = 20.0,
            input: bytes = b"") -> CommandResult:
        script = command if isinstance(command, str) else shlex.join(command)
        rooted = script.replace("find / ", f"find {self._root} ")
        ran = subprocess.run(["/bin/sh", "-c", rooted], input=input, capture_output=True, check=False,
                             env={"PATH": self._path})
        return CommandResult(script=script, exit_status=ran.returncode, output=ran.stdout, errors=ran.stderr,
                             duration=0.0)  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    contents = {
        "bin/perl": ELF + b"perl_parse", "lib/quiet": ELF + b" perl_parse", "lib/perl5": ELF, "doc/perl": b"perl_parse",
        "lib/part.img": bytes(1080) + b"\x53\xef" + b" perl_parse", "lib/x.zip": b"PK\x03\x04 perl_parse",
        "bin/a b": b"#!/bin/sh\nperl_parse\n", "key": b"x\n-----BEGIN OPENSSH PRIVATE KEY-----\ny\n",
    }  # fmt: skip
    for name, content in contents.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o644)
    (tmp_path / "bin/perl").chmod(0o755)
    return tmp_path


def below(root: Path, *names: str) -> list[str]:
    return sorted(f"{root}/{name}" for name in names)


def test_a_program_is_one_whatever_its_mode(root: Path) -> None:
    found = Files(LocalShell(root)).executables_named([r"perl(?:[\d.]*)?"])
    assert found == below(root, "bin/perl", "lib/perl5")


def test_a_mark_is_found_under_any_name_and_mode_and_in_what_holds_programs(root: Path) -> None:
    found = Files(LocalShell(root)).executables_holding(["perl_parse"])
    assert found == below(root, "bin/perl", "lib/quiet", "lib/part.img", "lib/x.zip", "bin/a b")


def test_an_archive_of_programs_is_no_program(root: Path) -> None:
    found = Files(LocalShell(root)).programs_holding(["perl_parse"])
    assert found == below(root, "bin/perl", "lib/quiet", "bin/a b")


def test_a_program_of_the_test_beds_own_is_not_the_images(root: Path) -> None:
    """By its real path; one that is not there hides nothing, nor does one beside it."""
    (root / "usr").symlink_to("bin")
    own = [f"{root}/no such/directory", f"{root}/usr/perl", f"{root}/lib/gone"]
    files = Files(LocalShell(root), lambda: own)
    assert files.programs_holding(["perl_parse"]) == below(root, "lib/quiet", "bin/a b")
    assert f"{root}/bin/perl" not in files.executables_holding(["perl_parse"])
    assert files.executables_named(["perl"]) == below(root, "bin/perl")


def test_a_mark_is_looked_for_as_it_is(root: Path) -> None:
    (root / "bin/c").write_bytes(ELF + b"it's (a mark)")
    assert Files(LocalShell(root)).executables_holding(["it's (a mark)", "[x"]) == below(root, "bin/c")
    assert Files(LocalShell(root)).executables_holding(["it.s"]) == []


def test_a_line_is_found_in_small_files_alone(root: Path) -> None:
    (root / "large").write_bytes((root / "key").read_bytes() + bytes(40 << 10))
    found = Files(LocalShell(root)).holding(["-----BEGIN OPENSSH PRIVATE KEY-----"])
    assert found == below(root, "key")


def test_without_its_tools_nothing_is_taken_for_absent(root: Path) -> None:
    with pytest.raises(NotJudged, match="it has no find") as caught:
        Files(LocalShell(root, path="/nonexistent")).executables_holding(["perl_parse"])
    assert caught.value.reason is Reason.IMAGE


def test_a_directory_takes_a_file_refuses_it_or_is_not_there(root: Path) -> None:
    files = Files(LocalShell(root))
    assert files.accepted_writes([f"{root}/bin", f"{root}/none", "/proc"]) == below(root, "bin")
    assert sorted(path.name for path in (root / "bin").iterdir()) == ["a b", "perl"]
    assert files.missing([f"{root}/bin", f"{root}/none"]) == below(root, "none")


def test_every_directory_outside_of_the_promised_ones_is_tried(root: Path) -> None:
    (root / "deep/er").mkdir(parents=True)
    (root / "doc").rename(root / "docs")
    (root / "doc").symlink_to("docs")
    found = Files(LocalShell(root)).accepted_writes_outside([f"{root}/{name}" for name in ("bin", "lib", "docs", "x")])
    assert found == [str(root), *below(root, "deep", "deep/er")]


def test_a_writable_file_in_a_directory_that_is_not_is_a_writable_path(root: Path) -> None:
    shell = FakeShell({"find /": "1:2 /var\0" "1:3 /usr/share/node\0"})
    assert Files(shell).writable_paths() == ["/usr/share/node", "/var"]
    assert "-type f" in shell.scripts[0]


# Privileges


@pytest.mark.parametrize(("printed", "expected"), [
    ("getcap\n/usr/bin/a b cap_net_raw=ep\n/usr/bin/c = cap_net_raw+ep\n", ["/usr/bin/a b", "/usr/bin/c"]),
    ("getfattr\n# file: /usr/bin/a b\nsecurity.capability=0sAQAAAg==\n\n", ["/usr/bin/a b"]),
    ("tar\n/usr/bin/a b\n", ["/usr/bin/a b"]), ("getcap\n", []),
])  # fmt: skip
def test_capabilities_are_read_by_the_tool_that_is_there(printed: str, expected: list[str]) -> None:
    shell = FakeShell({"getfattr": printed, "/6000": "/usr/bin/su\0"})
    assert Files(shell).setuid() == sorted([*expected, "/usr/bin/su"])


def test_without_such_a_tool_privileges_are_not_judged() -> None:
    with pytest.raises(NotJudged, match="file capabilities") as caught:
        Files(FakeShell({"getfattr": (127, ""), "/6000": "/usr/bin/su\0"})).setuid()
    assert caught.value.reason is Reason.IMAGE


def test_the_guests_tar_finds_a_capability(root: Path, tmp_path: Path) -> None:
    """With a PATH of the shell's own tools and tar alone."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("tar", "find", "xargs", "grep", "head", "sh", "printf"):
        (tools / name).symlink_to(subprocess.check_output(["which", name], text=True).strip())
    subprocess.run(["setcap", "cap_net_raw+ep", root / "bin/perl"], check=True)
    script = capabilities.SCRIPT.format(files="find / -type f -perm /111 -print0")
    result = LocalShell(root / "bin", path=str(tools)).run(script)
    assert result.lines == ["tar", f"{root}/bin/perl"] and capabilities.parse(result) == below(root, "bin/perl")


# Formats


@pytest.mark.parametrize(("mode", "content", "program", "holds"), [
    (0o644, ELF, True, True), (0o644, b"#!/bin/sh", True, True), (0o755, b"", True, True),
    (0o644, b"text", False, False), (0o644, b"PK\x03\x04", False, True),
    (0o644, bytes(257) + b"ustar", False, True), (0o644, b"hsqs", False, True),
    (0o644, bytes(1080) + b"\x53\xef", False, True), (0o644, b"", False, False),
])  # fmt: skip
def test_a_file_is_known_by_its_first_bytes(mode: int, content: bytes, program: bool, holds: bool) -> None:
    head = FileHead.of(mode, content)
    assert (formats.is_program(head), formats.holds_programs(head)) == (program, holds)
    assert FileHead.parse(f"{mode:o}", [piece.hex() for piece in head.pieces]) == head


def test_what_cannot_be_read_is_no_program() -> None:
    assert not formats.holds_programs(FileHead.parse("?", ["zz", "", "1"]))
