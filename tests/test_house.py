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
#: The rooms in the order of one run. A room knows those before it and itself, never those after it.
ROOMS = (
    "masking", "errors", "deadline", "text", "steps", "records", "lifeline", "leftovers", "hub", "capacity",
    "spread", "claims", "image", "disk", "profile", "known", "ecs", "qemu", "console", "guest", "upgrade", "boot",
    "autopsy", "as_sold", "wiring", "machine", "readiness", "staticpod", "template", "template_cache", "scenario",
    "bench", "fleet", "cluster", "restorer", "sharing", "journey", "powercut", "found", "preflight", "doctor",
    "explain", "report", "perf", "boottime", "scheduling", "items", "asked", "run", "sharding", "measuring", "claim",
    "nodes", "letgo", "plugin", "interactive", "completion", "cli", "__main__",
)  # fmt: skip
#: Who may import a library; to swap it is to touch one room.
OWNERS = {
    "qemu": {"qemu.qmp"}, "pexpect": {"console.wire"}, "allure": {"report.allure"},
    "kubernetes": {"cluster.api"}, "cryptography": {"cluster.authority"},
    "minisign": {"report.signature"}, "xdist": {"scheduling"}, "filelock": {"template_cache"}, "packaging": {"known"},
    "pydantic": {"profile", "template", "perf.jsonlines", "perf.sweeps", "known", "report.document"},
    "pytest": {"plugin", "nodes", "items", "asked", "run", "letgo", "scheduling", "sharding", "measuring", "claim"},
    "psutil": {"capacity", "leftovers", "report.collector"}, "rich": {"report.progress", "powercut.campaign"},
    "otava": {"perf.changes"},
    "sqlalchemy": {"perf.schema", "perf.history", "perf.migrations.versions.v0001_samples"},
    "alembic": {"perf.history", "perf.migrations.env", "perf.migrations.versions.v0001_samples"},
    "shtab": {"completion"},
    "scipy": {"perf.judge", "perf.changes"}, "numpy": {"perf.judge", "perf.changes", "perf.trend"},
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


def room(module: str) -> int | None:
    name = module.removeprefix("lifsea_testbed.").partition(".")[0]
    return ROOMS.index(name) if module.startswith("lifsea_testbed.") and name in ROOMS else None


def test_every_module_has_a_room() -> None:
    names = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in PACKAGE.rglob("*.py")}
    assert names - {"__init__"} == set(ROOMS)


def test_imports_go_one_way() -> None:
    wrong = [
        f"{name_of(path)} imports {imported}"
        for path in PACKAGE.rglob("*.py")
        for imported in imports(path)
        if (here := room(f"lifsea_testbed.{name_of(path)}")) is not None
        and (there := room(imported)) is not None and there > here
    ]  # fmt: skip
    assert wrong == []


def test_each_library_has_its_owner() -> None:
    wrong = [
        f"{name_of(path)} imports {imported}"
        for path in PACKAGE.rglob("*.py")
        for imported in imports(path)
        if (library := imported.partition(".")[0]) in OWNERS and name_of(path) not in OWNERS[library]
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
