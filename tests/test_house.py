"""The rules of the house: which way imports go, who owns which library, how large things may grow."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lifsea_testbed"
#: The floors, the lowest first. A package knows those of the floors below it and itself, never its neighbours.
FLOORS = (
    {"errors", "support"},
    {"disk", "profiles", "perf", "ecs"},
    {"guest", "console", "qemu"},
    {"machine", "upgrade"},
    {"scenarios", "cluster", "powercut", "boottime"},
    {"report"},
    {"plugin", "cli"},
    {"__main__"},
)
#: The lowest floor is one: errors are redacted, and what is redacted raises errors.
GROUND = FLOORS[0]
#: __init__ and every package and module beside it; py.typed is no module.
MOST_ENTRIES = 20
#: Who may import a library; to swap it is to touch one room.
OWNERS = {
    "qemu": {"qemu.qmp"}, "pexpect": {"console.socket_io"}, "allure": {"report.allure"},
    "kubernetes": {"cluster.api"}, "cryptography": {"cluster.authority"},
    "minisign": {"report.signature"}, "xdist": {"plugin.xdist"}, "filelock": {"machine.snapshot_cache"},
    "packaging": {"report.known_issues"},
    "pydantic": {"profiles.profile", "machine.context", "machine.snapshot", "perf.jsonlines", "perf.sweeps",
                 "report.known_issues", "report.document"},
    "pytest": {"plugin"},
    "psutil": {"support.host", "support.private_dir", "report.collector"},
    "rich": {"report.progress", "powercut.campaign"},
    "otava": {"perf.change_points"},
    "sqlalchemy": {"perf.schema", "perf.history", "perf.migrations.versions.v0001_samples"},
    "alembic": {"perf.history", "perf.migrations.env", "perf.migrations.versions.v0001_samples"},
    "shtab": {"cli.completion"},
    "scipy": {"perf.compare", "perf.change_points"}, "numpy": {"perf.compare", "perf.change_points", "perf.trend"},
}  # fmt: skip
LARGEST_MODULE = 400
MEDIAN_FUNCTION, TENTH_FUNCTION = 10, 30


def modules() -> list[Path]:
    folders = [ROOT / name for name in ("lifsea_testbed", "suites", "images", "tests", "benchmarks")]
    return [path for folder in folders for path in folder.rglob("*.py")]


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def package(module: str) -> str | None:
    """The entry of the top level that an absolute name leads to, or nothing for another project's."""
    name = module.removeprefix("lifsea_testbed.").partition(".")[0]
    return name if module.startswith("lifsea_testbed.") and any(name in floor for floor in FLOORS) else None


def floor(name: str) -> int:
    return next(number for number, packages in enumerate(FLOORS) if name in packages)


def test_every_module_stands_on_a_floor() -> None:
    names = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in PACKAGE.rglob("*.py")}
    assert names - {"__init__"} == set().union(*FLOORS)
    assert len(names) <= MOST_ENTRIES


def test_imports_go_down() -> None:
    """A package knows itself and the floors below; packages of one floor do not know each other."""
    wrong = [
        f"{name_of(path)} imports {imported}"
        for path in PACKAGE.rglob("*.py")
        for imported in imports(path)
        if (here := package(f"lifsea_testbed.{name_of(path)}")) and (there := package(imported)) and here != there
        and floor(there) >= floor(here) and {here, there} != GROUND
    ]
    assert wrong == []


def test_each_library_has_its_owner() -> None:
    wrong = [
        f"{name_of(path)} imports {imported}"
        for path in PACKAGE.rglob("*.py")
        for imported in imports(path)
        if (library := imported.partition(".")[0]) in OWNERS
        and not OWNERS[library] & {name_of(path), name_of(path).partition(".")[0]}
    ]
    assert wrong == []


def test_suites_ask_the_machine_and_nothing_else() -> None:
    """No regular expressions, no sleeping, no processes: that belongs to guest/."""
    wrong = {imported for path in (ROOT / "suites").glob("*.py") for imported in imports(path)
             if not imported.startswith(("lifsea_testbed", "__future__", "pytest"))}  # fmt: skip
    assert wrong == set()


def test_no_module_is_too_long() -> None:
    assert [path.name for path in modules() if len(path.read_text("utf-8").splitlines()) > LARGEST_MODULE] == []


def test_functions_are_short() -> None:
    trees = [ast.parse(path.read_text("utf-8")) for path in modules()]
    sizes = [
        (node.end_lineno or node.lineno) - node.lineno + 1
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert statistics.median(sizes) <= MEDIAN_FUNCTION
    assert statistics.quantiles(sizes, n=10)[-1] <= TENTH_FUNCTION


def test_no_address_of_a_registry_is_in_the_repository() -> None:
    """Packages come from wherever the host itself gets them."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    hosts = ("deb." + "debian.org", "pypi." + "org", "registry." + "npmjs")
    texts = ((name, (ROOT / name).read_text("utf-8", "replace")) for name in listed if (ROOT / name).is_file())
    assert [name for name, text in texts if any(host in text for host in hosts)] == []


@pytest.mark.parametrize("command", [["ruff", "check", "--no-cache"], ["mypy"]], ids=["ruff", "mypy"])
def test_linters_are_content(command: list[str]) -> None:
    checked = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
