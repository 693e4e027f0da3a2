"""Every command in the documentation is run, and every example is read.

The first line of a block of shell states who runs it: `sh`, this file, in a copy of the checkout; `sh nightly`, this
file with real images; `sh wheel`, tests/test_packaging.py. One that needs a user or hours is `sh parsed`: the parsers
of the programs that it names read it, and PARSED has the reason why it is not run.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from lifsea_testbed.cli.main import parser
from lifsea_testbed.perf import jsonlines
from lifsea_testbed.perf.history import History
from tests.support import ROOT
from tests.support.perf_cases import build, samples
from tests.support.real import built

PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
TERMINAL, GATE, TEST = "it needs a user at a terminal", ".ci/run runs ci/gate", ".ci/run runs ci/test"
COMPARE = "it boots two images many times; benchmarks/perf.py does so"
KEPT = "a test has to fail for it; tests/machine/test_snapshot.py has one fail, and opens what was kept"
PARSED = {
    "README.md:ci/gate": GATE, "README.md:ci/test": TEST, "README.md:lifsea-testbed shell": TERMINAL,
    "README.md:lifsea-testbed boot-time": COMPARE, "boot-time.md:lifsea-testbed boot-time": COMPARE,
    "fleet.md:ci/gate": GATE, "machines.md:pytest": KEPT, "machines.md:lifsea-testbed shell": KEPT,
    "README.md:lifsea-testbed powercut": "half an hour; docs/powercut.md has a shorter one that is run",
    "instance.md:lifsea-testbed instance": "it needs a real instance; tests/cli/test_instance.py compares one",
    "channel.md:lifsea-testbed shell": TERMINAL, "quick-start.md:lifsea-testbed shell": TERMINAL,
    "your-own-os.md:lifsea-testbed shell": TERMINAL, "red-gate.md:lifsea-testbed shell": TERMINAL,
    "quick-start.md:ci/gate": GATE, "ci.md:ci/gate": "tests/test_pipelines.py runs it with all that it starts replaced",
    "ci.md:lifsea-testbed history": "tests/test_pipelines.py runs it, with a sweep in two shards",
    "verdict.md:pytest": "README.md runs it",
    "verdict.md:lifsea-testbed gate": "tests/report/test_merge.py merges shards",
    "kubelet.md:python": "tests/cluster/test_joins.py builds it", "kubelet.md:pytest": GATE,
    "powercut.md:lifsea-testbed powercut": "the state is one of a whole sweep, which takes hours",
}  # fmt: skip
#: The programs that a line of shell may start beside those of this project.
OTHERS = {"python", "python3", "pip", "venv/bin/pip", "mkdir", "sed", "cat", ".", "test", "ci/publish", "minisign"}


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block of code: its page, line, language, mark and text."""

    page: Path
    line: int
    language: str
    mark: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command, without here-documents."""
        text = re.sub(r"<<'(\w+)'\n.*?\n\1\n", "\n", f"{self.text}\n", flags=re.DOTALL)
        parts = [part for line in text.splitlines() for part in re.split(r" \|\| | && ", line)]
        return [words for part in parts if (words := shlex.split(re.sub(r" >\S+", "", part), comments=True))]


def blocks() -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text("utf-8")
        for found in re.finditer(r"^```(\w*) ?(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text[: found.start()].count("\n") + 1
            yield Block(page=page, line=line, language=found[1], mark=found[2], text=found[3])


BLOCKS = list(blocks())
SHELL = [block for block in BLOCKS if block.language == "sh"]


def test_every_block_says_what_it_is() -> None:
    marks = {"sh": {"", "nightly", "parsed", "wheel"}, "text": {""}, "toml": {""}, "python": {""}}
    assert [str(block) for block in BLOCKS if block.mark not in marks.get(block.language, set())] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_all_code_is_in_blocks(page: Path) -> None:
    bare = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert re.findall(r"(?<=\n\n) {4,}\S.*", bare) == []


def test_what_is_not_run_has_a_reason() -> None:
    found = {f"{block.page.name}:{' '.join(command[:2]) if 'lifsea' in command[0] else command[0]}"
             for block in SHELL if block.mark == "parsed" for command in block.commands}  # fmt: skip
    assert found == set(PARSED)


@cache
def options_of_pytest() -> set[str]:
    command = [sys.executable, "-m", "pytest", "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", shown.stdout))


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_a_command_is_spelled_right(block: Block) -> None:
    """Each option exists, and each program is one that is known here."""
    subprocess.run(["bash", "-n", "-c", block.text], check=True)
    for words in block.commands:
        program = Path(words[0]).name
        if program == "lifsea-testbed":
            parser().parse_args(words[1:])
        elif words[0] in ("pytest", "venv/bin/pytest", "ci/gate", "ci/test", "ci/nightly"):
            named = {word.partition("=")[0] for word in words[1:] if word.startswith("-")} - {"--publish"}
            assert named <= options_of_pytest()
        else:
            assert words[0] in OTHERS, words


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language in ("toml", "python")], ids=str)
def test_an_example_can_be_read(block: Block) -> None:
    assert tomllib.loads(block.text) if block.language == "toml" else ast.parse(block.text).body


def test_every_link_leads_somewhere() -> None:
    links = [(page, target) for page in PAGES for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8"))]
    assert [f"{page.name}: {target}" for page, target in links
            if "://" not in target and not (page.parent / target).exists()] == []  # fmt: skip


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text("utf-8")
    assert [page.name for page in ROOT.glob("docs/*.md") if page.name != "README.md" and page.name not in index] == []


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of links, with a history and the figures of a run; all output is written into it."""
    for entry in ROOT.iterdir():
        if entry.name not in (".git", "build", "reports", "history", "dist") and not entry.name.endswith(".egg-info"):
            (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / "reports").mkdir()
    figures = samples(build(), (1.0, 1.1, 1.2))
    jsonlines.save(figures, tmp_path / "reports/metrics.jsonl")
    with History(str(tmp_path / "figures.db")) as history:
        history.add(figures)
    return tmp_path


def run(block: Block, checkout: Path) -> None:
    home = checkout / "home"
    home.mkdir()
    cache = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    environment = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": cache,
                   "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # fmt: skip
    ended = subprocess.run(["bash", "-e", "-c", block.text], cwd=checkout, env=environment, text=True,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False)
    assert ended.returncode == 0, ended.stdout[-5000:]


@pytest.mark.parametrize("block", [block for block in SHELL if block.mark == ""], ids=str)
def test_a_command_does_what_it_says(block: Block, checkout: Path) -> None:
    run(block, checkout)


@pytest.mark.nightly
@pytest.mark.boots
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_do_what_they_say_to_a_real_image(page: Path, checkout: Path) -> None:
    """In the order of the page: a block may use the files that an earlier one wrote."""
    named = [block for block in SHELL if block.page == page and block.mark == "nightly"]
    (checkout / "out.qcow2").symlink_to(built("reference"))
    (checkout / "next.qcow2").symlink_to(built("next"))
    for block in named:
        run(block, checkout)
        (checkout / "home").rename(checkout / f"home-{block.line}")
