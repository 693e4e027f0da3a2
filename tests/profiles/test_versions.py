"""Versions and ranges of them are compared number by number."""

from __future__ import annotations

import pytest

from lifsea_testbed.profiles.versions import OsVersion, VersionRange


@pytest.mark.parametrize(("text", "numbers"), [
    ("3", (3,)), ("3.4.6-1.al8", (3, 4, 6)), ("3.4.6~rc1", (3, 4, 6)), ("v1.5.8", (1, 5, 8)),
    ("3 (Soaring Falcon)", (3,)),
    ("40.20240504.3.0", (40, 20240504, 3, 0)), ("", ()), ("rolling", ()), ("9" * 5000, (999999999999999999,)),
])  # fmt: skip
def test_the_numbers_at_the_start_are_the_version(text: str, numbers: tuple[int, ...]) -> None:
    assert OsVersion.parse(text).numbers == numbers


@pytest.mark.parametrize(("text", "version", "holds", "may_hold"), [
    (">=3.4, <3.5", "3.4", True, True), (">=3.4, <3.5", "3.4.9", True, True), (">=3.4, <3.5", "3.40", False, False),
    (">=3.4, <3.5", "3.5.0", False, False), (">=3.4, <3.5", "3.3.99", False, False),
    (">=3.4, <3.5", "3", False, True), (">=3.4, <3.5", "30", False, False), (">=3.4, <3.5", "", False, True),
    (">=3.9", "3.10", True, True), ("<3.10", "3.9", True, True), ("<3.9", "3.10", False, False),
    ("<3.4", "2.9", True, True), ("<3.4", "3", False, True), (">=3, <4", "3", True, True),
    (">=3, <4", "30", False, False),
    (">=3.0, <4", "3", True, True), (">=3, <4.0", "3", True, True), ("", "", True, True), ("", "17", True, True),
])  # fmt: skip
def test_a_range_holds_the_versions_between_its_bounds(text: str, version: str, holds: bool, may_hold: bool) -> None:
    found, given = VersionRange.parse(text), OsVersion.parse(version)
    assert (found.holds(given), found.may_hold(given)) == (holds, may_hold)


@pytest.mark.parametrize("text", ["3.4", "~3.4", ">=3.4 <3.5", ">=3.x", "<=3", "<3, <4", ">=3.5, <3.5", ">=3.5, <3.4"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="range"):
        VersionRange.parse(text)


@pytest.mark.parametrize(("finer", "rough", "refines"), [("3.6.0", "3", True), ("3", "3", True), ("30", "3", False),
                                                          ("4.1", "3", False), ("3.6", "", True)])  # fmt: skip
def test_a_version_refines_a_rougher_one(finer: str, rough: str, refines: bool) -> None:
    assert OsVersion.parse(finer).refines(OsVersion.parse(rough)) is refines
