"""docs/security.md says of each claim by what it is judged; the suites judge by what it says."""

from __future__ import annotations

import re

from lifsea_testbed.profiles.claims import catalogue
from tests.profiles.test_claims import judges
from tests.support import ROOT

PAGE = ROOT / "docs/security.md"
ROADS = {"disk", "kernel", "outside", "act", "programs"}


def rows() -> dict[str, set[str]]:
    """The claims of the table, each with the roads by which it is judged."""
    section = PAGE.read_text("utf-8").partition("\n## A guest that lies\n")[2].partition("\n## ")[0]
    return {claim: set(roads.split(", ")) for claim, roads in re.findall(r"^\| `([\w-]+)` \| ([\w, ]+) \|", section,
                                                                         re.MULTILINE)}  # fmt: skip


def test_the_page_has_every_claim_and_no_other() -> None:
    assert list(rows()) == list(catalogue())
    assert {road for roads in rows().values() for road in roads} == ROADS


def test_the_disk_is_a_road_where_a_judge_reads_it() -> None:
    checked = {claim for claim, test in judges() if "cross_check" in {argument.arg for argument in test.args.args}}
    assert {claim for claim, roads in rows().items() if "disk" in roads} == checked
