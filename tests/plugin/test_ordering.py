"""The division of tests into shards and groups: every test is in one shard, for any order and any durations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifsea_testbed.errors import CallerError
from lifsea_testbed.plugin import ordering, shards
from lifsea_testbed.support.shard import ShardIndex

NAMES = st.text("abc/:[]@_", min_size=1, max_size=12)
TESTS = st.dictionaries(NAMES, st.sampled_from([None, None, "upgraded", "twins"]), max_size=40)
COUNTS = st.integers(1, 9)
DURATIONS = st.dictionaries(NAMES, st.floats(0, 1000), max_size=40)


@given(TESTS, COUNTS, DURATIONS)
def test_every_test_is_in_one_shard_and_a_scenario_is_whole(
    tests: dict[str, str | None], count: int, durations: dict[str, float]
) -> None:
    places = shards.assign(tests, count, durations)
    assert places.keys() == tests.keys()
    assert all(1 <= place <= count for place in places.values())
    for scenario in ("upgraded", "twins"):
        assert len({places[test] for test, name in tests.items() if name == scenario}) <= 1


@given(TESTS, COUNTS, DURATIONS, st.randoms())
def test_the_order_of_collection_does_not_matter(
    tests: dict[str, str | None], count: int, durations: dict[str, float], random: object
) -> None:
    items = list(tests.items())
    random.shuffle(items)  # type: ignore[attr-defined]
    before = shards.assign(tests, count, durations)
    after = shards.assign(dict(items), count, durations)
    assert after == before and shards.plan_digest(after) == shards.plan_digest(before)


@given(TESTS, NAMES, COUNTS)
def test_without_durations_another_test_moves_none(tests: dict[str, str | None], another: str, count: int) -> None:
    before = shards.assign(tests, count, {})
    after = shards.assign({another: None, **tests}, count, {})
    assert {test: after[test] for test in tests} == before


@given(st.dictionaries(NAMES, st.floats(0.1, 100), min_size=1, max_size=40), COUNTS)
def test_no_shard_takes_longer_than_the_fairest_by_more_than_one_test(
    durations: dict[str, float], count: int
) -> None:
    """The longest first, each to the emptiest: at most the mean and one test more (Graham 1969)."""
    places = shards.assign(dict.fromkeys(durations), count, durations)
    loads = [sum(durations[test] for test in durations if places[test] == shard) for shard in range(1, count + 1)]
    assert max(loads) <= sum(loads) / count + max(durations.values()) + 1e-6


def test_a_test_of_unknown_duration_counts_like_most() -> None:
    durations = {"a": 10.0, "b": 10.0, "c": 10.0}
    places = shards.assign(dict.fromkeys("abcd"), 2, durations)
    assert sorted(places.values()) == [1, 1, 2, 2]


def test_plans_differ_where_tests_or_durations_do() -> None:
    tests = dict.fromkeys("abcd")
    cuts = [shards.assign(tests, 2, {}), shards.assign(tests, 2, {"a": 9.0, "b": 1.0}),
            shards.assign({**tests, "e": None}, 2, {}), shards.assign(tests, 3, {})]
    plans = [shards.plan_digest(places) for places in cuts]
    assert len(set(plans)) == 4


@pytest.mark.parametrize(("text", "number", "count"), [("1/1", 1, 1), ("2/3", 2, 3), ("12/12", 12, 12)])
def test_a_shard_is_read(text: str, number: int, count: int) -> None:
    assert ShardIndex.parse(text) == ShardIndex(number=number, count=count)


@pytest.mark.parametrize("text", ["", "1", "0/3", "4/3", "-1/3", "1/0", "a/b", "1/2/3", "1 / 2", "1/99999"])
def test_a_malformed_shard_is_refused(text: str) -> None:
    with pytest.raises(CallerError, match="K/N"):
        ShardIndex.parse(text)


def test_durations_come_from_the_records_of_runs(tmp_path: Path) -> None:
    for name, tests in {"one": {"a": 1.5, "b": 2}, "two": {"b": 3.0}}.items():
        (tmp_path / name).write_text(json.dumps({"started": "x", "tests": tests}))
    assert shards.read_durations([tmp_path / "one", tmp_path / "two"]) == {"a": 1.5, "b": 3.0}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"tests": 1}', '{"tests": {"a": "b"}}', '{"tests": {"a": null}}'])
def test_a_file_without_durations_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(CallerError, match="holds no durations"):
        shards.read_durations([tmp_path / "run.json"])
    with pytest.raises(CallerError, match="holds no durations"):
        shards.read_durations([tmp_path / "none"])


@pytest.mark.parametrize(("fixtures", "scenario"), [
    (["machine", "profile"], None), (["own_machine"], None), (["machine", "twins"], "twins"),
    (["bench", "upgraded"], "upgraded"), (["rolled_back", "upgraded"], "upgraded"), (["watched"], "watched"),
])  # fmt: skip
def test_tests_of_a_scenario_belong_together(fixtures: list[str], scenario: str | None) -> None:
    assert ordering.scenario_of(fixtures) == scenario


@pytest.mark.parametrize(("given_name", "name"), [
    ("suites/test_upgrade.py::test_a@upgraded", "suites/test_upgrade.py::test_a"),
    ("t.py::test_a[x@twins]", "t.py::test_a[x@twins]"), ("t.py::test_a", "t.py::test_a"),
    ("t.py::test_a@their_own", "t.py::test_a@their_own"),
])  # fmt: skip
def test_xdists_groups_are_taken_out_of_names(given_name: str, name: str) -> None:
    assert ordering.without_group(given_name) == name


def test_the_late_look_comes_last_of_all() -> None:
    tests = [(["watched", "booted"], ordering.LATE), (["power_cuts"], ""), (["twins", "booted"], ""), (["machine"], ""),
             (["watched", "booted"], ordering.AFTER_BOOT)]  # fmt: skip
    assert [ordering.sort_key(fixtures, moment) for fixtures, moment in tests] == [3, 2, 1, 0, 0]
