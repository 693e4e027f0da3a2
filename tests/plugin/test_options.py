"""Options whose names other plugins have: every option has a long name, and a short one while nobody else has that."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.quick import lay_out

SUITE = """
import pytest
from lifsea_testbed import claim

@pytest.mark.parametrize("name", ["boots-to-ready", "no-sshd", "no-python", "shell-kept"])
def test_nothing(name): pass

@claim("no-sshd")
def test_sshd(): {body}
"""
#: A plugin with options of its own by names that are general; it notes what it was given.
OTHER = """
import pytest

def pytest_addoption(parser):
    group = parser.getgroup("other")
    group.addoption("--profile", action="store_true", help="profile the tests")
    group.addoption("--image", help="a picture")

def pytest_report_header(config):
    return f"other: {config.option.profile} {config.option.image}"
"""


def run(pytester: pytest.Pytester, *options: str, body: str = "pass", where: str = "") -> pytest.RunResult:
    """Runs the suite; another plugin with some of the names is loaded `where`: first, by an entry point, last."""
    given = lay_out(pytester.path, SUITE.format(body=body), **({"conftest": OTHER} if where == "last" else {}))
    (pytester.path / "other.py").write_text(OTHER)
    early = ["-p", "other"] if where == "first" else []
    if where == "entry point":
        folder = pytester.mkdir("zz_other-1.dist-info")
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: zz-other\nVersion: 1\n")
        (folder / "entry_points.txt").write_text("[pytest11]\nzz_other = other\n")
    if where:
        given = [f"--lifsea-{word[2:]}" if word in ("--image", "--profile") else word for word in given]
    return pytester.runpytest_subprocess(*early, *given, "-p", "no:hypothesispytest", *options)


@pytest.fixture(autouse=True)
def importable(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(pytester.path))
    monkeypatch.setenv("TMPDIR", str(pytester.path / "tmp"))


@pytest.mark.parametrize("where", ["first", "entry point", "last"])
def test_the_names_of_another_plugin_stay_its_own(pytester: pytest.Pytester, where: str) -> None:
    result = run(pytester, "--profile", "--image=cat.png", "--claim", "no-sshd", body="assert False", where=where)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["other: True cat.png", "verdict: fail - quick: *"])
    result.stdout.re_match_lines([r"reproduce: pytest \S+ --lifsea-image disk.raw --lifsea-profile quick.toml "
                                  r"--instance-type ecs.g7.large --accel tcg --firmware bios "
                                  r"--claim=no-sshd"])  # fmt: skip


@pytest.mark.parametrize("where", ["first", "entry point", "last"])
def test_the_help_says_which_names_are_taken(pytester: pytest.Pytester, where: str) -> None:
    result = run(pytester, "--help", where=where)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["short names *options (of another plugin: --image, --profile; use --lifsea-...):"])
    shorts = [line.split() for line in result.outlines if "the same as --lifsea-" in line]
    assert ["--claim=ID", "the", "same", "as", "--lifsea-claim"] in shorts
    assert not any(words[-1] in ("--lifsea-image", "--lifsea-profile") for words in shorts)


def test_both_names_are_one_option(pytester: pytest.Pytester) -> None:
    result = run(pytester, "--lifsea-claim=no-sshd", "--claim", "shell-kept", "--lifsea-image", "disk.raw")
    result.stdout.fnmatch_lines(["*only no-sshd, shell-kept was selected*"])
    result = run(pytester, "--lifsea-image", "other.raw")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["ERROR: --lifsea-image other.raw: it was given before, as disk.raw *"])


@pytest.mark.parametrize("options", [["--image", "IMAGE"], ["--lifsea-image=IMAGE"], ["@options"]])
def test_an_image_is_not_taken_for_a_directory_of_tests(
    pytester: pytest.Pytester, tmp_path: Path, options: list[str]
) -> None:
    """The conftest.py beside the image is not loaded, and that of the working directory is."""
    given = lay_out(pytester.path, SUITE.format(body="pass"),
                    conftest="def pytest_report_header(): return 'of the working directory'")[2:]  # fmt: skip
    (tmp_path / "conftest.py").write_text("raise ValueError")
    image = (pytester.path / "disk.raw").rename(tmp_path / "disk.raw")
    (pytester.path / "options").write_text(f"--image\n{image}\n")
    options = [word.replace("IMAGE", str(image)) for word in options]
    result = pytester.runpytest_subprocess(*options, *given, "-p", "no:hypothesispytest", "--claim", "no-sshd")
    assert result.ret == 7
    result.stdout.fnmatch_lines(["of the working directory"])
