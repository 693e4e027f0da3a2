"""What became of each mutant, kept from run to run, and the table of it in reports/."""

from __future__ import annotations

import json
from pathlib import Path

from images import mutations

REPORTS = Path(__file__).parent.parent.parent / "reports"
_KEPT = REPORTS / "mutants"
_TABLE = """\
# Mutants × claims

Each row is an image that breaks one promise; {killed} of {run} that were run are killed, {left} were not run. "killed"
is a claim that failed as it has to, "also" one that may fail beside it, "false alarm" any other.

| mutant | run as | {claims} |
|---|---|{rule}
{rows}
"""
_LEGEND = {"failed": "failed", "passed": "·", "not judged": "not judged", "broken": "broken"}


def keep(name: str, how: str, statuses: dict[str, str]) -> None:
    """Writes down the statuses of the claims of one run, and the table anew."""
    _KEPT.mkdir(parents=True, exist_ok=True)
    (_KEPT / f"{name}.{how}.json").write_text(json.dumps(statuses), "utf-8")
    (REPORTS / "mutants.md").write_text(text(), "utf-8")


def text() -> str:
    """The table: a row for each run, a column for each claim that a mutant has to break."""
    mutants = {name: mutations.read(name) for name in mutations.names()}
    claims = sorted({mutant.claim for mutant in mutants.values()})
    runs = [(*path.stem.split("."), json.loads(path.read_text("utf-8"))) for path in sorted(_KEPT.glob("*.json"))]
    runs = [run for run in runs if run[0] in mutants]
    rows = [f"| {name} | {how} | {_cells(mutants[name], statuses, claims)} |" for name, how, statuses in runs]
    run = {name for name, _, _ in runs}
    killed = {name for name, _, statuses in runs if statuses.get(mutants[name].claim) == "failed"}
    return _TABLE.format(killed=len(killed), run=len(run), left=len(mutants) - len(run), claims=" | ".join(claims),
                         rule="---|" * len(claims), rows="\n".join(rows))  # fmt: skip


def _cells(mutant: mutations.Mutant, statuses: dict[str, str], claims: list[str]) -> str:
    return " | ".join(_cell(mutant, claim, statuses.get(claim, "")) for claim in claims)


def _cell(mutant: mutations.Mutant, claim: str, status: str) -> str:
    if status != "failed":
        return _LEGEND.get(status, "")
    return "killed" if claim == mutant.claim else "also" if claim in mutant.also else "false alarm"
