"""The profile that a baseline is written as: valid, readable, held to its source, and never in the place of another."""

from __future__ import annotations

from pathlib import Path

import pytest

from lifsea_testbed.errors import CallerError
from lifsea_testbed.profiles import profile as profiles
from lifsea_testbed.profiles.baseline import Baseline, BaselineFigure, require_new, write_new

UNITS = BaselineFigure(key="budget.units", value=120, claim="few-units", what="unit files")
NAMES = ["/usr/bin/su", "/usr/bin/it's", '/opt/a "b"', "/opt/\\n", "/opt/\x7f\x01\n", "/opt/ü", "# no comment", "'''"]
FILES = BaselineFigure(key="security.setuid", value=NAMES, claim="setuid-known", what="privileged files")
PORTS = BaselineFigure(key="security.listeners", value=[r"tcp 127\.0\.0\.1:\d+ it's"], claim="no-surprise-listeners",
                       what="open ports")  # fmt: skip


def baseline(*figures: BaselineFigure, extends: str = "lifsea-3.3", **left: str) -> Baseline:
    return Baseline(source="out.qcow2, sha256 abc", extends=extends, base=profiles.load(extends), figures=figures,
                    left=left)  # fmt: skip


def test_it_extends_the_profile_with_the_figures_and_their_claims(tmp_path: Path) -> None:
    path = tmp_path / "my-os.toml"
    path.write_text(baseline(UNITS, PORTS, FILES).profile(path))
    written, base = profiles.load(str(path)), profiles.load("lifsea-3.3")
    assert (written.name, written.budget.units, written.security.listeners, written.security.setuid) == (
        "my-os", 120, PORTS.value, NAMES)  # fmt: skip
    assert written.claims == [*base.claims, "few-units", "no-surprise-listeners", "setuid-known"]
    assert (written.packages, written.security.sysctls) == (base.packages, base.security.sysctls)


def test_it_says_where_its_figures_are_from_and_what_was_not_taken(tmp_path: Path) -> None:
    text = baseline(UNITS, image="it cannot be\x1b[31m\nread" + " long" * 40).profile(tmp_path / "my-os.toml")
    assert "# Read by lifsea-testbed baseline from out.qcow2, sha256 abc." in text
    assert "# unit files (few-units)\nunits = 120\n" in text and "# Not taken: image: it cannot be" in text
    assert "\x1b" not in text and max(map(len, text.splitlines())) <= 120
    assert len([line for line in text.splitlines() if line.startswith("#")]) >= 6


def test_it_may_extend_a_file_in_another_directory(tmp_path: Path) -> None:
    base = tmp_path / "base.toml"
    base.write_text('extends = "alinux-3"\nname = "base"\n')
    (tmp_path / "below").mkdir()
    path = tmp_path / "below/my-os.toml"
    path.write_text(baseline(UNITS, extends=str(base)).profile(path))
    assert 'extends = "../base.toml"' in path.read_text() and profiles.load(str(path)).budget.units == 120


def test_without_figures_it_is_the_profile_that_it_extends(tmp_path: Path) -> None:
    path = tmp_path / "my-os.toml"
    path.write_text(baseline().profile(path))
    assert profiles.load(str(path)).claims == profiles.load("lifsea-3.3").claims


@pytest.mark.parametrize(("name", "complaint"), [
    ("my-os", "a profile is a .toml file"), ("reference.toml", "is the name of a built-in profile"),
    ("there.toml", "exists already, and is never replaced"), ("link.toml", "exists already, and is never replaced"),
    ("none/my-os.toml", "its directory does not exist"),
])  # fmt: skip
def test_no_file_is_replaced(tmp_path: Path, name: str, complaint: str) -> None:
    (tmp_path / "there.toml").write_text("")
    (tmp_path / "link.toml").symlink_to("nowhere")
    with pytest.raises(CallerError, match=complaint) as caught:
        require_new(tmp_path / name)
    assert caught.value.hint
    require_new(tmp_path / "my-os.toml")


def test_a_file_that_came_meanwhile_is_not_replaced_either(tmp_path: Path) -> None:
    path = tmp_path / "my-os.toml"
    write_new(path, "first")
    with pytest.raises(CallerError, match="cannot be written: File exists"):
        write_new(path, "second")
    assert path.read_text() == "first"
