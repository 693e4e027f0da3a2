"""The result of each mutant, stored from run to run, and their table: reports/mutants.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from images import mutations

REPORTS = Path(__file__).parent.parent.parent / "reports"
_KEPT = REPORTS / "mutants"
_TABLE = """\
# Mutants × claims

Each row is an image that breaks one promise. "killed" is the claim that has to fail and did, "also" one that may fail
as well, "false alarm" any other that failed, "·" one that was kept; an empty cell was not judged. A mutant that was
judged by its claim alone has one cell. {killed} of {count} mutants were killed by their claim; {left} were not run.

| mutant | judged by | {claims} |
|---|---|{rule}
{rows}
"""
_LEGEND = {"passed": "·", "not judged": "not judged", "broken": "broken"}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One mutant that was judged: by its claim alone or by the whole suite."""

    mutant: str
    judged_by: str
    statuses: Mapping[str, str]


def keep(run: Run) -> None:
    """Stores one run, and writes the table again."""
    _KEPT.mkdir(parents=True, exist_ok=True)
    (_KEPT / f"{run.mutant}.{run.judged_by}.json").write_text(json.dumps(asdict(run)), "utf-8")
    (REPORTS / "mutants.md").write_text(text(kept()), "utf-8")


def kept() -> list[Run]:
    """The last run of each existing mutant, by its claim and by the whole suite."""
    runs = [Run(**json.loads(path.read_text("utf-8"))) for path in sorted(_KEPT.glob("*.json"))]
    return [run for run in runs if run.mutant in mutations.names()]


def text(runs: list[Run]) -> str:
    """The table: a row for each run, a column for each claim that a mutant has to break."""
    mutants = {name: mutations.read(name) for name in mutations.names()}
    claims = sorted({mutant.claim for mutant in mutants.values()})
    killed = {run.mutant for run in runs if run.statuses.get(mutants[run.mutant].claim) == "failed"}
    rows = [f"| {run.mutant} | {run.judged_by} | {_cells(mutants[run.mutant], run, claims)} |" for run in runs]
    return _TABLE.format(killed=len(killed), count=len(mutants), left=len(mutants) - len({run.mutant for run in runs}),
                         claims=" | ".join(claims), rule="---|" * len(claims), rows="\n".join(rows))  # fmt: skip


def _cells(mutant: mutations.Mutant, run: Run, claims: list[str]) -> str:
    return " | ".join(_cell(mutant, claim, run.statuses.get(claim, "")) for claim in claims)


def _cell(mutant: mutations.Mutant, claim: str, status: str) -> str:
    if status != "failed":
        return _LEGEND.get(status, "")
    return "killed" if claim == mutant.claim else "also" if claim in mutant.also else "false alarm"
