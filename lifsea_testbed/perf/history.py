"""The history: the samples of all runs, in an SQLite file or on a PostgreSQL server."""

from __future__ import annotations

import contextlib
import importlib.resources
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url

from lifsea_testbed.errors import CallerError, HostError
from lifsea_testbed.perf.metric import Better, Build, BuildKind, Metric, Sample
from lifsea_testbed.support.lines import split_lines

_BATCH = 5000
#: Time limits (seconds) for an SQLite file that another run has locked, and for a connection to a server.
_TIMEOUTS: dict[str, dict[str, Any]] = {"sqlite": {"timeout": 60}, "postgresql": {"connect_timeout": 10}}
#: The key (an arbitrary number) of the advisory lock by which one process at a time migrates on PostgreSQL.
_MIGRATION_LOCK = 0x11F5EA

#: The tables, as the newest migration leaves them.
METADATA = sa.MetaData()
_ID = sa.String(32)

#: One row for each definition of a metric.
METRICS = sa.Table(
    "metrics", METADATA,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("unit", sa.Text, nullable=False),
    sa.Column("better", sa.String(6), nullable=False),
    sa.Column("definition", sa.Text, nullable=False),
    sa.Column("exact", sa.Boolean, nullable=False),
)  # fmt: skip
#: One row for each run on an image.
BUILDS = sa.Table(
    "builds", METADATA,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("token", sa.Text, nullable=False),
    sa.Column("started", sa.Text, nullable=False),
    sa.Column("image_digest", sa.Text, nullable=False),
    sa.Column("image_version", sa.Text, nullable=False),
    sa.Column("revision", sa.Text, nullable=False),
    sa.Column("profile", sa.Text, nullable=False),
    sa.Column("instance_type", sa.Text, nullable=False),
    sa.Column("accelerator", sa.Text, nullable=False),
    sa.Column("qemu", sa.Text, nullable=False),
    sa.Column("host_class", sa.Text, nullable=False),
    sa.Column("kind", sa.String(7), nullable=False),
    sa.Column("reports", sa.Text, nullable=False),
    sa.Column("processor", sa.Text, nullable=False, server_default=""),
    sa.Column("workers", sa.Integer, nullable=False, server_default="0"),
    sa.Column("memory", sa.Integer, nullable=False, server_default="0"),
)  # fmt: skip
#: One row for each value. The view `samples_in_full` joins all three tables.
SAMPLES = sa.Table(
    "samples", METADATA,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("build", _ID, sa.ForeignKey("builds.id"), nullable=False),
    sa.Column("metric", _ID, sa.ForeignKey("metrics.id"), nullable=False),
    sa.Column("value", sa.Float(53), nullable=False),
    sa.Column("test", sa.Text, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("budget", sa.Float(53)),
)  # fmt: skip
sa.Index("samples_by_metric", SAMPLES.c.metric, SAMPLES.c.build)


class History:
    """Owns the connections to one database, whose schema is up to date."""

    def __init__(self, place: str) -> None:
        """Opens the database at a path or URL; a missing file is created.

        Raises:
            CallerError: the path or URL is invalid, or a later version of the test bed wrote the database.
            HostError: the database cannot be used now.
        """
        self.place = place
        with _explained(place):
            url = _url(place)
            self._engine = sa.create_engine(url, connect_args=_TIMEOUTS[url.get_backend_name()])
            try:
                self._migrate()
            except BaseException:
                self._engine.dispose()
                raise

    def __enter__(self) -> History:
        """Returns the history itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes all connections."""
        self._engine.dispose()

    def add(self, samples: Iterable[Sample]) -> int:
        """Stores the samples that are not in the history yet, all or none, and returns their number.

        Several processes may add at the same time, also the same samples.

        Raises:
            HostError: the database failed; nothing was stored.
        """
        with _explained(self.place), self._engine.begin() as connection:
            before = _count(connection)
            for batch in _batches(samples):
                self._insert(connection, batch)
            return _count(connection) - before

    def samples(self, metric: str | None = None) -> Iterator[Sample]:
        """Yields every sample, or those of one metric by its id, in order of the builds' start."""
        yield from self._select(SAMPLES.c.metric == metric if metric else sa.true())

    def builds(self) -> list[Build]:
        """Returns every build, in order of time."""
        query = sa.select(BUILDS).order_by(BUILDS.c.started, BUILDS.c.id)
        return [Build(**{**_fields(row), "kind": BuildKind(row.kind)}) for row in self._rows(query)]

    def metrics(self) -> list[Metric]:
        """Returns every definition of every metric, by name."""
        query = sa.select(METRICS).order_by(METRICS.c.name, METRICS.c.id)
        return [Metric(**{**_fields(row), "better": Better(row.better)}) for row in self._rows(query)]

    def baseline(self, build: Build, metric: Metric) -> list[Sample]:
        """Returns the samples of the metric from all runs on the last release of another image, in the same setting."""
        alike = sa.and_(*(BUILDS.c[name] == value for name, value in asdict(build.setting).items()))
        joined = SAMPLES.join(BUILDS, BUILDS.c.id == SAMPLES.c.build)
        release = (
            sa.select(BUILDS.c.image_digest).select_from(joined)
            .where(alike, SAMPLES.c.metric == metric.id, BUILDS.c.kind == str(BuildKind.RELEASE),
                   BUILDS.c.image_digest != build.image_digest, BUILDS.c.started < build.started)
            .order_by(BUILDS.c.started.desc()).limit(1)
        )  # fmt: skip
        digests = [row.image_digest for row in self._rows(release)]
        same = sa.and_(alike, SAMPLES.c.metric == metric.id, BUILDS.c.image_digest.in_(digests))
        return list(self._select(same)) if digests else []

    def _select(self, condition: sa.ColumnElement[bool]) -> Iterator[Sample]:
        builds = {build.id: build for build in self.builds()}
        metrics = {each.id: each for each in self.metrics()}
        query = sa.select(SAMPLES).join(BUILDS, BUILDS.c.id == SAMPLES.c.build).where(condition).order_by(
            BUILDS.c.started, BUILDS.c.id, SAMPLES.c.metric, SAMPLES.c.test, SAMPLES.c.number, SAMPLES.c.id,
        )  # fmt: skip
        for row in self._rows(query):
            yield Sample(build=builds[row.build], metric=metrics[row.metric], value=row.value, test=row.test,
                         number=row.number, budget=row.budget)  # fmt: skip

    def _rows(self, query: sa.Select[Any]) -> Iterator[sa.Row[Any]]:
        with _explained(self.place), self._engine.connect() as connection:
            yield from connection.execution_options(yield_per=_BATCH).execute(query)

    def _insert(self, connection: sa.Connection, samples: Iterable[Sample]) -> None:
        samples = list(samples)
        builds = {sample.build.id: sample.build for sample in samples}
        metrics = {sample.metric.id: sample.metric for sample in samples}
        for table, rows in (
            (BUILDS, [{"id": key, **asdict(build), "kind": str(build.kind)} for key, build in builds.items()]),
            (METRICS, [{"id": key, **asdict(each), "better": str(each.better)} for key, each in metrics.items()]),
            (SAMPLES, list(map(_row, samples))),
        ):
            dialect: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
            # The same order everywhere, so that two processes that add the same rows cannot deadlock.
            rows.sort(key=lambda row: str(row["id"]))
            connection.execute(dialect.insert(table).on_conflict_do_nothing(), rows)

    def _migrate(self) -> None:
        config = Config()
        folder = importlib.resources.files("lifsea_testbed").joinpath("perf", "migrations")
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        with self._engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            else:
                # SQLite's own lock is for writers alone: without it two processes find no table, and both create it.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def _url(place: str) -> sa.URL:
    if "://" not in place:
        return sa.URL.create("sqlite", database=place)
    url = make_url(place)
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise CallerError(f"{url.render_as_string()}: only SQLite and PostgreSQL are supported for a history",
                          hint="give a file, or postgresql://USER@HOST/DATABASE")  # fmt: skip
    return url.set(drivername="postgresql+psycopg") if url.get_backend_name() == "postgresql" else url


@contextlib.contextmanager
def _explained(place: str) -> Iterator[None]:
    """Converts exceptions of the libraries into one line without the password."""
    try:
        yield
    except (CommandError, sa.exc.ArgumentError, sa.exc.NoSuchModuleError) as error:
        raise CallerError(f"{_shown(place)}: not a usable history: {_first_line(error)}",
                          hint="give a file or a URL; if a later test bed wrote it, update this one") from None
    except ImportError as error:
        raise CallerError(f"{_shown(place)}: {error}", hint="pip install 'lifsea-testbed[perf,postgres]'") from None
    except sa.exc.SQLAlchemyError as error:
        raise HostError(f"{_shown(place)}: the history cannot be used: {_first_line(error)}",
                        hint="check the path, the server and your rights on it") from None


def _shown(place: str) -> str:
    with contextlib.suppress(sa.exc.ArgumentError):
        return make_url(place).render_as_string() if "://" in place else place
    return "the history's URL"


def _first_line(error: Exception) -> str:
    return (split_lines(str(error)) or [type(error).__name__])[0]


def _batches(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    remaining = iter(samples)
    while batch := list(itertools.islice(remaining, _BATCH)):
        yield batch


def _count(connection: sa.Connection) -> int:
    return connection.execute(sa.select(sa.func.count()).select_from(SAMPLES)).scalar_one()


def _row(sample: Sample) -> dict[str, Any]:
    return {"id": sample.id, "build": sample.build.id, "metric": sample.metric.id, "value": sample.value,
            "test": sample.test, "number": sample.number, "budget": sample.budget}  # fmt: skip


def _fields(row: sa.Row[Any]) -> dict[str, Any]:
    return {key: value for key, value in row._mapping.items() if key != "id"}
