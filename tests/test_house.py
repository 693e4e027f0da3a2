"""The rules of the house: which way imports go, who owns which library, how large things may grow, what is public."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import lifsea_testbed
from tests.support import ROOT, SUITES
from tests.support.generate import GENERATED
from tests.support.house import FLOORS, GROUND, PACKAGE, floor_of, imports, modules, name_of, package_of

#: __init__ and every package and module beside it; py.typed is no module.
MOST_ENTRIES = 20
#: The modules that may import a library; a whole package where only its name stands. To swap a library is to touch one.
OWNERS = {
    "qemu": {"qemu.qmp"}, "pexpect": {"console.socket_io"}, "allure": {"report.allure"},
    "kubernetes": {"cluster.api"}, "cryptography": {"cluster.authority"},
    "html": {"support.sinks"},
    "minisign": {"report.signature"}, "xdist": {"plugin.xdist"}, "filelock": {"machine.snapshot_cache"},
    "packaging": {"report.known_issues"}, "msgspec": {"support.questions"},
    "pydantic": {"profiles.profile", "machine.context", "machine.snapshot", "perf.jsonlines", "perf.sweeps",
                 "report.known_issues", "report.document"},
    "pytest": {"plugin"},
    "psutil": {"support.host", "support.private_dir", "report.collector"},
    "rich": {"report.terminal", "powercut.campaign"},
    "otava": {"perf.change_points"},
    "sqlalchemy": {"perf.history", "perf.migrations.versions.v0001_samples",
                   "perf.migrations.versions.v0002_conditions"},
    "alembic": {"perf.history", "perf.migrations.env", "perf.migrations.versions.v0001_samples",
                "perf.migrations.versions.v0002_conditions"},
    "shtab": {"cli.completion"},
    "scipy": {"perf.compare", "perf.change_points"}, "numpy": {"perf.compare", "perf.change_points", "perf.trend"},
}  # fmt: skip
#: Modules that one other of their package alone imports, and the noun that each is.
OF_THEIR_OWN = {
    "boottime.budget": "a budget", "boottime.charts": "a chart", "boottime.kernel_only": "a kernel without a disk",
    "boottime.observe": "the observer", "cli.shell": "a terminal",
    "disk.ext4_attributes": "attributes", "disk.image_lock": "a lock",
    "disk.boot_choice": "a choice", "disk.erofs": "a file system",
    "disk.squashfs": "a file system", "disk.xfs": "a file system", "disk.xfs_attributes": "attributes",
    "disk.xfs_log": "a log", "disk.journal": "a journal", "disk.probe": "a probe",
    "disk.vhdx": "a format", "disk.vmdk": "a format",
    "ecs.metadata_tree": "the tree of metadata",
    "guest.archives": "an archive", "guest.bus_policy": "a policy",
    "guest.disk_questions": "questions", "guest.kernel_log": "the kernel's log", "guest.open_disk": "an open disk",
    "guest.ostree_objects": "the objects of a repository", "guest.protobuf": "a wire format",
    "guest.rpm": "a package database", "guest.sqlite_log": "a log of a database",
    "machine.clock_reseed": "the guest's clock",
    "machine.coming_up": "a boot that fails", "machine.descriptors": "descriptors",
    "machine.fidelity": "fidelity", "machine.network": "a machine's network", "machine.postmortem": "records",
    "machine.time_server": "a time server", "perf.change_points": "a change point",
    "support.user_range": "a user",
    "plugin.fixture_teardown": "teardown",
    "plugin.judgement": "a judgement", "plugin.judges": "a judge", "plugin.judges_written": "a judge in a source",
    "plugin.log_output": "the output in a log", "plugin.shards": "a shard",
    "plugin.stop_signals": "a signal", "plugin.time_limit": "a time limit",
    "powercut.boot_listing": "a listing", "powercut.recorded_disk": "a disk",
    "powercut.recording_questions": "questions", "powercut.report": "a report",
    "powercut.timeline_svg": "a picture", "powercut.unused_sectors": "sectors", "support.reader_process": "a process",
}  # fmt: skip
#: The modules that parse what an image's author wrote, and those with the functions that confined readers run.
PARSERS = {
    "disk.boot_choice", "disk.boot_entries", "disk.boot_loaders", "disk.btrfs", "disk.btrfs_trees", "disk.compression",
    "disk.erofs", "disk.ext4", "disk.ext4_attributes", "disk.fat", "disk.filesystem", "disk.inodes", "disk.journal",
    "disk.mounts", "disk.os_root", "disk.partitions", "disk.probe", "disk.qcow2", "disk.squashfs", "disk.vhd",
    "disk.vhdx", "disk.virtual_disk", "disk.vmdk", "disk.xfs", "disk.xfs_attributes", "disk.xfs_log",
    "guest.bus_policy", "guest.open_disk", "guest.ostree_objects", "guest.rpm", "guest.sqlite_log",
    "powercut.boot_listing", "powercut.unused_sectors",
}  # fmt: skip
READERS = {"disk.image", "disk.layers", "guest.disk_questions", "powercut.recording_questions"}
LARGEST_MODULE = 400
MEDIAN_FUNCTION, TENTH_FUNCTION = 10, 30
_TYPED = re.compile(r"^    from lifsea_testbed\.(\S+) import (\w+) as \2$", re.MULTILINE)
#: Words of which docs/architecture.md says where they lead to: `module:name`.
_POINTER = re.compile(r"`([a-z_.]+):(\w+)`")


def sources() -> list[Path]:
    folders = [ROOT / name for name in ("lifsea_testbed", "suites", "images", "tests", "benchmarks")]
    return [path for folder in folders for path in folder.rglob("*.py")]


def classes() -> Iterator[tuple[str, str]]:
    """Every public class of the package: its name and its module's."""
    for path in modules():
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                yield node.name, name_of(path)


def test_every_module_stands_on_a_floor() -> None:
    names = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in modules()}
    assert names - {"__init__"} == {package for floor in FLOORS for package in floor.packages}
    assert len(names) <= MOST_ENTRIES


def test_imports_go_down() -> None:
    """A package knows itself and the floors below; packages of one floor do not know each other."""
    wrong = [
        f"{name_of(path)} imports {imported}"
        for path in modules()
        for imported in imports(path)
        if (here := package_of(f"lifsea_testbed.{name_of(path)}")) and (there := package_of(imported)) and here != there
        and floor_of(there) >= floor_of(here) and {here, there} != GROUND
    ]
    assert wrong == []


def test_no_module_is_a_limb_of_another() -> None:
    """What one other module of its package alone imports is part of that one, unless it is a noun of its own."""
    users: dict[str, set[str]] = {name_of(path): set() for path in modules()}
    for path in modules():
        for imported in imports(path):
            there, here = imported.removeprefix("lifsea_testbed."), name_of(path)
            if there in users and here not in ("", there):
                users[there].add(here)
    limbs = {name for name, by in users.items() if "." in name and len(by) == 1
             and name not in lifsea_testbed._MODULES.values()
             and name.partition(".")[0] == next(iter(by)).partition(".")[0]}  # fmt: skip
    assert limbs == set(OF_THEIR_OWN)


def test_each_library_has_its_owner() -> None:
    wrong = [
        f"{name_of(path)} imports {imported}"
        for path in modules()
        for imported in imports(path)
        if (library := imported.partition(".")[0]) in OWNERS
        and not OWNERS[library] & {name_of(path), name_of(path).partition(".")[0]}
    ]
    assert wrong == []


def test_an_image_is_parsed_by_confined_readers_alone() -> None:
    """What runs with the privileges of the run puts questions to a reader, and imports none of its parsers."""
    names = {name_of(path): {imported.removeprefix("lifsea_testbed.") for imported in imports(path)}
             for path in modules()}  # fmt: skip
    assert names.keys() >= PARSERS | READERS
    assert {name: sorted(found) for name, imported in names.items() if name not in PARSERS | READERS
            and (found := imported & PARSERS)} == {}  # fmt: skip


def test_one_module_starts_programs() -> None:
    """It gives none of them the environment, and with it the passwords and tokens, of this process."""
    starters = {"subprocess", "multiprocessing", "pty", "asyncio.subprocess"}
    assert [name_of(path) for path in modules() if starters & set(imports(path))] == ["support.programs"]
    calls = {f"{name_of(path)}: os.{node.attr}" for path in modules()
             for node in ast.walk(ast.parse(path.read_text("utf-8")))
             if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "os"
             and node.attr.startswith(("exec", "spawn", "posix_spawn", "system", "popen", "fork"))}  # fmt: skip
    assert calls == set()


def test_suites_import_the_public_api_and_nothing_else() -> None:
    """No regular expressions, no sleeping, no processes, no module below the package."""
    names = {f"lifsea_testbed.{name}" for name in lifsea_testbed.__all__}
    allowed = {"lifsea_testbed", "pytest", "__future__", "__future__.annotations", *names}
    wrong = {f"{path.name}: {imported}" for path in SUITES.glob("*.py") for imported in imports(path)} - {
        f"{path.name}: {name}" for path in SUITES.glob("*.py") for name in allowed}  # fmt: skip
    assert wrong == set()


def test_the_public_api_is_sorted_and_whole() -> None:
    """What a type checker sees, what is imported on first use and what is listed are the same names."""
    source = (PACKAGE / "__init__.py").read_text("utf-8")
    typed = {name: module for module, name in _TYPED.findall(source)}
    assert lifsea_testbed.__all__ == sorted(lifsea_testbed._MODULES) == sorted(typed)
    for name, module in lifsea_testbed._MODULES.items():
        assert module.removesuffix(f".{name}") == typed[name]
        assert getattr(lifsea_testbed, name) is not None
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        getattr(lifsea_testbed, "nothing_of_the_kind")  # noqa: B009


@pytest.mark.parametrize("path", GENERATED, ids=lambda path: path.name)
def test_generated_pages_are_current(path: Path) -> None:
    assert path.read_text("utf-8") == GENERATED[path](), "python -m tests.support.generate"


def test_no_two_public_classes_share_a_name() -> None:
    counted = Counter(name for name, _ in classes())
    assert {name: [module for other, module in classes() if other == name]
            for name, count in counted.items() if count > 1} == {}  # fmt: skip


def test_the_pointers_of_the_architecture_page_are_true() -> None:
    pointers = _POINTER.findall((ROOT / "docs/architecture.md").read_text("utf-8"))
    assert len(pointers) > 20
    for module, name in pointers:
        tree = ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text("utf-8"))
        assert any(isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name for node in tree.body), \
            f"{module}:{name}"  # fmt: skip


def test_the_glossary_has_each_noun_once() -> None:
    nouns = re.findall(r"^\*\*(.+?)\*\*", (ROOT / "docs/glossary.md").read_text("utf-8"), re.MULTILINE)
    assert len(nouns) > 30
    assert nouns == sorted(set(nouns), key=str.lower)


def test_the_classes_of_the_glossary_exist() -> None:
    named = set(re.findall(r"`([A-Z]\w+)`", (ROOT / "docs/glossary.md").read_text("utf-8")))
    assert sorted(named - {name for name, _ in classes()}) == []


def test_tests_have_a_folder_for_each_package() -> None:
    packages = {package for floor in FLOORS for package in floor.packages} - {"__main__", "errors"}
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and not path.name.startswith("__")}
    assert packages - folders == set()
    assert folders - packages == {"faults", "fuzz", "images", "mutants", "suites"}


def test_no_module_is_too_long() -> None:
    assert [path.name for path in sources() if len(path.read_text("utf-8").splitlines()) > LARGEST_MODULE] == []


def test_functions_are_short() -> None:
    trees = [ast.parse(path.read_text("utf-8")) for path in sources()]
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
