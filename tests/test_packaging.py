"""The package: what the wheel carries, and that it works where there is no checkout."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT
from tests.support.boot_sector import raw_image
from tests.support.quick import lay_out
from tests.test_docs import SHELL

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_every_package_and_every_file_of_data_is_named() -> None:
    """The list is written by hand, since suites/ and images/mutants/ lie elsewhere in the checkout."""
    settings = PROJECT["tool"]["setuptools"]
    packages, places = settings["packages"], settings["package-dir"]
    folders = {path.parent for path in (ROOT / "lifsea_testbed").rglob("*.py") if "__pycache__" not in path.parts}
    found = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert found <= set(packages) and set(places) <= set(packages)
    files = subprocess.run(["git", "ls-files", "lifsea_testbed"], cwd=ROOT, capture_output=True, text=True, check=True)
    data = {ROOT / name for name in files.stdout.split() if not name.endswith(".py")}
    carried = {path for package, patterns in settings["package-data"].items() for pattern in patterns
               for path in (ROOT / places.get(package, package.replace(".", "/"))).glob(pattern)}  # fmt: skip
    assert sorted(str(path) for path in data - carried) == []


def test_the_version_is_semantic_and_the_changelog_knows_it() -> None:
    version = PROJECT["project"]["version"]
    assert re.fullmatch(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-[\w.]+)?", version)
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert all(re.fullmatch(r"\d+\.\d+\.\d+ \(\d{4}-\d\d-\d\d\)", heading) for heading in headings[1:])
    assert not headings[1:] or headings[1].split()[0] == version


def test_an_extra_is_there_for_each_thing_that_not_everybody_needs() -> None:
    assert {"perf", "postgres", "sign"} <= set(PROJECT["project"]["optional-dependencies"])


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the wheel and the sdist, made from the files that git knows."""
    place = tmp_path_factory.mktemp("package")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    (place / "source").mkdir()
    archive = subprocess.run(["tar", "--create", "--null", "--files-from=-"], cwd=ROOT, input=listed,
                             capture_output=True, check=True).stdout  # fmt: skip
    subprocess.run(["tar", "--extract", "--directory", place / "source"], input=archive, check=True)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(place), str(place / "source")]
    made = subprocess.run(build, text=True, capture_output=True, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    assert "absent from the `packages` configuration" not in made.stdout + made.stderr
    return place


@pytest.mark.nightly
def test_wheel_and_sdist_are_whole(built: Path) -> None:
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    carried = set(zipfile.ZipFile(wheel).namelist())
    suites = {f"lifsea_testbed/suites/{path.name}" for path in (ROOT / "suites").glob("*.py")}
    assert suites | {"lifsea_testbed/py.typed", "lifsea_testbed/profiles/claims.toml",
                     "lifsea_testbed/perf/site/index.html",
                     "lifsea_testbed/mutants/python-named.toml", "lifsea_testbed/profiles/lifsea-3.3.toml"} <= carried
    assert [name for name in carried if name.startswith(("tests", "images", "suites"))] == []
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "pyproject.toml", "suites/test_boot.py", "images/mutants/python-named.toml"} <= names


@pytest.mark.nightly
@pytest.mark.boots
def test_it_judges_an_image_where_there_is_no_checkout(built: Path, tmp_path: Path) -> None:
    """As docs/quick-start.md has it: a clean virtual environment, the suites by the name of their package."""
    (wheel,) = built.glob("*.whl")
    (tmp_path / wheel.name).symlink_to(wheel)
    (block,) = [block for block in SHELL if block.mark == "wheel"]
    environment = {"PATH": "/usr/bin:/bin:/usr/sbin", "HOME": str(Path.home())}
    shown = subprocess.run(["bash", "-e", "-c", block.text.replace("python3 -m venv", f"{sys.executable} -m venv")],
                           cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)  # fmt: skip
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "tests collected" in shown.stdout and "test_contents.py:" in shown.stdout
    raw_image(tmp_path / "disk.raw", "Kernel panic - not syncing\n")
    judge = ["venv/bin/pytest", "--pyargs", "lifsea_testbed.suites", "--image", "disk.raw", "--profile", "reference"]
    judged = subprocess.run(judge, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert judged.returncode == 1, judged.stdout + judged.stderr
    gate = json.loads((tmp_path / "reports/gate.json").read_text())
    assert gate["verdict"] == "fail" and all(claim["tests"] for claim in gate["claims"])


USERS_SUITE = """
import lifsea_testbed
from lifsea_testbed import Machine, Profile, claim

@claim("boots-to-ready")
def test_boots(machine: Machine, profile: Profile) -> None:
    machine.wait_until_ready()
    assert "site" in lifsea_testbed.__file__
    assert machine.guest.subject("ours") == profile.name

def test_each_public_name_is_there() -> None:
    assert [name for name in lifsea_testbed.__all__ if not hasattr(lifsea_testbed, name)] == []
"""
USERS_PLUGIN = """
def pytest_lifsea_guest_subjects():
    return {"ours": lambda shell, profile: profile.name}
"""


@pytest.mark.boots
def test_a_users_suite_needs_the_wheel_and_the_public_api_alone(
    built: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A suite and a plugin of a user's own, in a directory that knows of no checkout."""
    (wheel,) = built.glob("*.whl")
    site = tmp_path_factory.mktemp("installed") / "site"
    install = ["pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run([sys.executable, "-m", *install], check=True)
    options = lay_out(tmp_path, USERS_SUITE, conftest=USERS_PLUGIN)
    environment = {**os.environ, "PYTHONPATH": str(site), "TMPDIR": str(tmp_path / "tmp")}
    judged = subprocess.run([sys.executable, "-m", "pytest", *options], cwd=tmp_path, env=environment, text=True,
                            capture_output=True, check=False)  # fmt: skip
    assert "2 passed" in judged.stdout, judged.stdout + judged.stderr
    gate = json.loads((tmp_path / "reports/gate.json").read_text())
    assert {claim["id"]: claim["status"] for claim in gate["claims"]}["boots-to-ready"] == "passed"


@pytest.mark.nightly
def test_it_is_typed(built: Path, tmp_path: Path) -> None:
    """A type checker takes the annotations of the package that is installed."""
    (wheel,) = built.glob("*.whl")
    site = tmp_path / "site"
    install = ["pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run([sys.executable, "-m", *install], check=True)
    (tmp_path / "user.py").write_text("from lifsea_testbed import Deadline\nDeadline.after('soon')\n")
    check = [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "--cache-dir", "cache", "user.py"]
    told = subprocess.run(check, cwd=tmp_path, env={"MYPYPATH": str(site), "PATH": "/usr/bin:/bin"}, text=True,
                          capture_output=True, check=False).stdout  # fmt: skip
    assert 'Argument 1 to "after" of "Deadline" has incompatible type "str"' in told


def test_an_unused_plugin_costs_little() -> None:
    """Nothing heavy is imported until there is an image."""
    ask = "import sys, lifsea_testbed.plugin.entry; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True).stdout.split()
    assert [name for name in ("pydantic", "rich", "qemu", "sqlalchemy", "numpy", "psutil") if name in loaded] == []
