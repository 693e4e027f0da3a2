"""The explanation of a claim, and completion of the command line in a shell."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from images import mutations
from lifsea_testbed.cli.main import main
from lifsea_testbed.profiles.claims import catalogue
from lifsea_testbed.profiles.explanation import explain
from tests.profiles.test_claims import judges
from tests.support import SUITES


def test_a_claim_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "no-python"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("no-python: There is no python interpreter anywhere.\n")
    for part in ("source    seed", "lifsea-3.3", "suites/test_contents.py:", "test_there_is_no_python",
                 "mutant:python-in-libexec"):  # fmt: skip
        assert part in shown


@pytest.mark.parametrize(("claim", "needs"), [
    ("few-units", "needs     budget.units"),
    ("upgrade", "needs     upgrades.deploy if upgrades.tool = commands"),
])  # fmt: skip
def test_the_keys_that_a_claim_needs_are_listed(claim: str, needs: str) -> None:
    assert needs in str(explain(claim)).splitlines()
    assert "needs" not in str(explain("no-logind"))


def test_every_judge_and_every_mutant_is_listed() -> None:
    mutants = {name: mutations.read(name).claim for name in mutations.names()}
    for claim in catalogue():
        explanation = explain(claim)
        assert {judge.name for judge in explanation.judges} == {node.name for name, node in judges() if name == claim}
        assert [mutant.name for mutant in explanation.mutants] == [name for name in mutants if mutants[name] == claim]


@pytest.mark.parametrize("name", catalogue())
def test_the_line_of_a_judge_is_right(name: str) -> None:
    for judge in explain(name).judges:
        lines = (SUITES / judge.file).read_text("utf-8").splitlines()
        assert lines[judge.line - 1].startswith(f"def {judge.name}(")
        assert judge.asserts.endswith(".")


def test_an_unknown_claim_gets_one_line_with_similar_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "no-pyton"]) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ERROR: unknown claim 'no-pyton' (hint: no-python")


def test_without_a_claim_all_of_them_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(catalogue())


def completed(script: Path, *words: str) -> list[str]:
    """The completions of bash for the last word."""
    ask = ('source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shtab_lifsea_testbed; '
           'printf "%s\\n" "${COMPREPLY[@]}"')  # fmt: skip
    command = ["bash", "-c", ask, "bash", str(script), "lifsea-testbed", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@pytest.fixture
def bash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "completion"
    script.write_text(capsys.readouterr().out)
    return script


def test_bash_completes_commands_claims_and_names(bash: Path) -> None:
    assert {"doctor", "explain"} <= set(completed(bash, ""))
    assert completed(bash, "explain", "no-py") == ["no-python"]
    assert completed(bash, "shell", "--profile", "lifsea-3") == [f"lifsea-3.{line}" for line in range(3, 8)]
    assert completed(bash, "shell", "--instance-type", "ecs.g7.xl") == ["ecs.g7.xlarge"]
    assert completed(bash, "shell", "--ima") == ["--image"]


@pytest.mark.parametrize(("shell", "mark"), [("zsh", "#compdef lifsea-testbed"), ("tcsh", "complete lifsea-testbed")])
def test_other_shells_get_a_script_as_well(shell: str, mark: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    shown = capsys.readouterr().out
    assert mark in shown and "no-python" in shown


def test_the_version_is_that_of_the_package() -> None:
    shown = subprocess.run([sys.executable, "-m", "lifsea_testbed", "--version"], capture_output=True, text=True,
                           check=True).stdout  # fmt: skip
    text = (SUITES.parent / "pyproject.toml").read_text("utf-8")
    assert f'version = "{shown.strip()}"' in text
