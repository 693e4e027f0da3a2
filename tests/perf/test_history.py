"""The history, on SQLite and on a PostgreSQL server: nothing is lost, nothing is doubled."""

from __future__ import annotations

import io
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lifsea_testbed.cli.main import main
from lifsea_testbed.errors import CallerError, HostError
from lifsea_testbed.perf import assessment, jsonlines
from lifsea_testbed.perf.compare import Change
from lifsea_testbed.perf.history import History
from lifsea_testbed.perf.metric import Better, BuildKind, Metric, Sample
from lifsea_testbed.support.sanitize import printable
from tests.support.perf_cases import BOOT, build, nightly, samples
from tests.support.postgres import server

_TEXT = st.text(max_size=20).map(printable)
_SAMPLES = st.builds(
    Sample,
    build=st.builds(build, st.integers(0, 5), image_version=_TEXT, kind=st.sampled_from(BuildKind)),
    metric=st.builds(Metric, name=_TEXT, unit=_TEXT, better=st.sampled_from(Better), definition=_TEXT),
    value=st.floats(allow_nan=False, allow_infinity=False),
    test=_TEXT,
    number=st.integers(1, 1000),
    budget=st.none() | st.floats(0, 1e9),
)


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def history(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[History]:
    """An empty history on either kind of database."""
    url = request.getfixturevalue("postgres") if request.param == "postgresql" else str(tmp_path / "history.db")
    with History(url) as opened:
        yield opened
        _empty(opened)


def _empty(history: History) -> None:
    from lifsea_testbed.perf.history import METADATA

    with history._engine.begin() as connection:
        for table in reversed(METADATA.sorted_tables):
            connection.execute(table.delete())


def ids(of: History) -> set[str]:
    return {sample.id for sample in of.samples()}


def test_samples_come_back_as_they_were(history: History) -> None:
    given_samples = list(nightly([2.0, 2.1, 2.2], budget=2.5))
    assert history.add(given_samples) == 15
    assert list(history.samples()) == given_samples
    assert history.metrics() == [BOOT] and len(history.builds()) == 3


def test_what_is_there_stays_single(history: History) -> None:
    first, second = list(nightly([2.0, 2.1])), list(nightly([2.0, 2.1, 2.2]))
    assert (history.add(first), history.add(second), history.add(second)) == (10, 5, 0)
    assert len(list(history.samples())) == 15


def test_several_create_it_at_the_same_time(tmp_path: Path) -> None:
    """Each process finds a file that is new, and all of them can use it."""
    program = ("import sys; from lifsea_testbed.perf.history import History; sys.stdin.readline()\n"
               "with History(sys.argv[1]) as history: print(len(history.builds()))")  # fmt: skip
    for number in range(3):
        command = [sys.executable, "-c", program, str(tmp_path / f"{number}.db")]
        running = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                    text=True) for _ in range(4)]  # fmt: skip
        for process in running:
            assert process.stdin
            process.stdin.write("\n")
            process.stdin.flush()
        assert [process.communicate()[0] for process in running] == ["0\n"] * 4


def test_several_add_at_the_same_time(history: History) -> None:
    everything = list(nightly([2.0] * 40))
    parts = [everything[start : start + 120] for start in (0, 40, 80)]

    with ExitStack() as stack, ThreadPoolExecutor(4) as pool:
        others = [stack.enter_context(History(history.place)) for _ in range(4)]
        list(pool.map(History.add, others, [*parts, everything[::-1]]))
    assert ids(history) == {sample.id for sample in everything}


def test_equal_values_are_not_the_same_sample(history: History) -> None:
    assert history.add(samples(build(), [2.0, 2.0, 2.0])) == 3


def test_all_or_nothing_is_kept(history: History) -> None:
    def breaks_off() -> Iterator[Sample]:
        yield from nightly([2.0])
        raise RuntimeError

    with pytest.raises(RuntimeError):
        history.add(breaks_off())
    assert list(history.samples()) == []


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_SAMPLES, max_size=8), st.lists(_SAMPLES, max_size=8), st.integers(0, 8))
def test_a_merge_is_a_union(history: History, ours: list[Sample], theirs: list[Sample], common: int) -> None:
    """For any content, in any order, through JSON lines or not."""
    _empty(history)
    with History("sqlite://") as other:
        other.add(theirs + ours[:common])
        history.add(ours)
        lines = io.StringIO()
        jsonlines.write(other.samples(), lines)
        added = history.add(jsonlines.read(lines.getvalue().split("\n"), "lines"))
        assert ids(history) == {sample.id for sample in ours + theirs}
        assert added == len(ids(history)) - len({sample.id for sample in ours})
        assert history.add(other.samples()) == 0


def test_a_changed_definition_begins_another_series(history: History) -> None:
    for changed in (BOOT, replace(BOOT, unit="ms"), replace(BOOT, definition="until ready"), replace(BOOT, exact=True),
                    replace(BOOT, better=Better.HIGHER)):
        history.add(samples(build(), [2.0], changed))
    assert [metric.name for metric in history.metrics()] == ["boot"] * 5
    assert [len(list(history.samples(metric.id))) for metric in history.metrics()] == [1] * 5


def test_the_baseline_is_the_last_other_release_in_the_same_setting(history: History) -> None:
    release = BuildKind.RELEASE
    history.add(samples(build(1, kind=release), [1.0]))
    history.add(samples(build(2, kind=release), [2.0]))
    history.add(samples(build(3, kind=release, image_digest=build(2).image_digest), [2.5]))
    history.add(samples(build(4, kind=release, accelerator="tcg"), [3.0]))
    history.add(samples(build(5), [4.0]))
    history.add(samples(build(7, kind=release), [5.0]))
    assert [sample.value for sample in history.baseline(build(6), BOOT)] == [2.0, 2.5]
    assert history.baseline(build(0), BOOT) == []
    assert history.baseline(build(6), replace(BOOT, unit="ms")) == []


@pytest.mark.parametrize("condition", [
    {"profile": "lifsea-3.4"}, {"instance_type": "ecs.g7.xlarge"}, {"accelerator": "tcg"}, {"qemu": "8.2.0"},
    {"host_class": "another rack"}, {"processor": "host"}, {"workers": 8}, {"memory": 4096}, {"workers": 0},
])  # fmt: skip
def test_figures_taken_under_other_conditions_are_not_compared(history: History, condition: dict[str, Any]) -> None:
    conditions: dict[str, Any] = {"processor": "Icelake-Server-v6", "workers": 1, "memory": 8192}
    history.add(samples(build(1, kind=BuildKind.RELEASE, **{**conditions, **condition}), [2.0]))
    assert history.baseline(build(2, **conditions), BOOT) == []
    history.add(samples(build(1, kind=BuildKind.RELEASE, **conditions), [3.0]))
    assert [sample.value for sample in history.baseline(build(2, **conditions), BOOT)] == [3.0]


def test_a_history_from_before_the_conditions_opens_with_the_same_samples(tmp_path: Path) -> None:
    taken = list(nightly([2.0, 2.1]))
    of, metric = taken[0].build, taken[0].metric
    with closing(sqlite3.connect(tmp_path / "old.db")) as database:
        place = f"sqlite:///{tmp_path}/old.db"
        migrated_to("0001", place)
        names = [name for name in asdict(of) if name not in {"processor", "workers", "memory"}]
        for made in {sample.build for sample in taken}:
            row = [made.id, *(str(getattr(made, name)) for name in names)]
            database.execute(f"INSERT INTO builds (id, {', '.join(names)}) VALUES ({', '.join('?' * len(row))})", row)
        database.execute("INSERT INTO metrics VALUES (?, ?, ?, ?, ?, ?)", [
            metric.id, metric.name, metric.unit, str(metric.better), metric.definition, metric.exact])
        database.executemany("INSERT INTO samples VALUES (?, ?, ?, ?, ?, ?, ?)", [
            [each.id, each.build.id, metric.id, each.value, each.test, each.number, each.budget] for each in taken])
        database.commit()
    with History(str(tmp_path / "old.db")) as history:
        assert sorted(history.samples(), key=lambda sample: sample.id) == sorted(taken, key=lambda sample: sample.id)
        assert history.add(taken) == 0
        assert {build.workers for build in history.builds()} == {0}


def test_builds_and_exported_samples_keep_their_identity() -> None:
    assert build(1).id == "6c9d6929dd69dcab5bf07ba1bbeff29c"
    assert build(1, workers=2).id != build(1, workers=1).id != build(1).id
    (line,) = _written(samples(build(1), [2.0]))
    fields = json.loads(line)
    for name in ("processor", "workers", "memory"):
        del fields["build"][name]
    assert list(jsonlines.read([json.dumps(fields)], "old.jsonl")) == samples(build(1), [2.0])


def _written(taken: list[Sample]) -> list[str]:
    file = io.StringIO()
    jsonlines.write(taken, file)
    return file.getvalue().splitlines()


def migrated_to(revision: str, place: str) -> None:
    """Makes the tables of an earlier version."""
    import sqlalchemy as sa
    from alembic import command
    from alembic.config import Config

    from lifsea_testbed.perf import migrations

    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    engine = sa.create_engine(place)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()


def test_findings_say_what_fails_a_gate(history: History) -> None:
    history.add(samples(build(1, kind=BuildKind.RELEASE), [2.0, 2.01, 2.02, 1.99, 2.0]))
    findings = assessment.judge(history, samples(build(2), [2.2, 2.21, 2.22, 2.19, 2.2], budget=2.1))
    assert findings.findings[0].comparison and findings.findings[0].comparison.change is Change.REGRESSED
    assert [line.partition(":")[0] for line in findings.failures] == ["boot regressed", "boot over budget"]
    assert findings.lines[0].endswith("(against 3.1)")


def test_without_a_release_nothing_is_compared(history: History) -> None:
    findings = assessment.judge(history, samples(build(2), [2.2], budget=3.0))
    assert findings.failures == []
    assert findings.lines[0] == "boot not compared (the history has no release in this setting)"


def test_the_view_has_everything_in_one_row(history: History) -> None:
    import sqlalchemy as sa

    history.add(samples(build(4), [2.0]))
    with history._engine.connect() as connection:
        row = connection.execute(sa.text("SELECT * FROM samples_in_full")).mappings().one()
    assert (row["metric"], row["value"], row["image_version"], row["host_class"]) == ("boot", 2.0, "3.4",
                                                                                      "a rack, 8 cores")


def test_the_schema_is_what_the_migrations_make(history: History) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    from lifsea_testbed.perf.history import METADATA

    with history._engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []


@pytest.mark.parametrize(("place", "error", "complaint"), [
    ("mysql://host/figures", CallerError, "only SQLite and PostgreSQL are supported"),
    ("postgresql://user:secret@/db?host=/nonexistent", HostError, "cannot be used"),
    ("/nonexistent/history.db", HostError, "unable to open"),
])  # fmt: skip
def test_an_unusable_history_is_reported_without_password(place: str, error: type[Exception], complaint: str) -> None:
    with pytest.raises(error, match=complaint) as raised:
        History(place)
    assert "secret" not in str(raised.value)


def test_a_history_of_a_later_version_is_refused(tmp_path: Path) -> None:
    place = str(tmp_path / "history.db")
    with History(place):
        pass
    with sqlite3.connect(place) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    with pytest.raises(CallerError, match="9999"):
        History(place)


@pytest.mark.parametrize("line", [
    "{}", "[]", "null", "{", '{"schema": 2}', '{"schema": 1, "value": NaN}', "[" * 100_000, '"\\ud800"',
])  # fmt: skip
def test_a_line_that_is_not_a_sample_is_refused_with_its_number(line: str) -> None:
    with pytest.raises(CallerError, match=r"^given: line 2 is not a sample"):
        list(jsonlines.read(["\n", line], "given"))


@pytest.mark.parametrize(("field", "value"), [
    ("value", 1.0), ("test", "other"), ("number", 9), ("budget", 1.0), ("value", float("inf")), ("test", "\x1b[2J"),
])  # fmt: skip
def test_a_sample_that_was_changed_is_refused(field: str, value: object) -> None:
    lines = io.StringIO()
    jsonlines.write(samples(build(), [2.0]), lines)
    with pytest.raises(CallerError, match="line 1"):
        list(jsonlines.read([json.dumps({**json.loads(lines.getvalue()), field: value})], "given"))


def test_histories_are_carried_by_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs, lines = (str(tmp_path / name) for name in ("ours.db", "theirs.db", "lines.jsonl"))
    with History(theirs) as other:
        other.add(nightly([2.0, 2.1]))
    assert main(["history", "export", "--history", theirs, "-o", lines]) == 0
    assert main(["history", "import", "--history", ours, lines]) == 0
    assert main(["history", "merge", "--history", ours, theirs]) == 0
    assert capsys.readouterr().out == f"{lines}: 10 samples are new\n{theirs}: 0 samples are new\n"


@pytest.mark.parametrize("arguments", [
    ["dashboard", "--history", "none.db"], ["history", "merge", "--history", "new.db", "none.db"],
    ["history", "import", "--history", "new.db", "none.jsonl"],
    ["history", "export", "--history", "new.db", "-o", "/nonexistent/x"],
])  # fmt: skip
def test_bad_input_gets_one_line(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 4
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("ERROR: ") and err.count("\n") == 1 and "(hint: " in err
