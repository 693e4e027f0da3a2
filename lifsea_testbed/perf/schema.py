"""The tables of a history, as the newest migration leaves them."""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Float, ForeignKey, Index, Integer, MetaData, String, Table, Text

METADATA = MetaData()
_ID = String(32)

#: One row for each definition of a metric.
METRICS = Table(
    "metrics", METADATA,
    Column("id", _ID, primary_key=True),
    Column("name", Text, nullable=False),
    Column("unit", Text, nullable=False),
    Column("better", String(6), nullable=False),
    Column("definition", Text, nullable=False),
    Column("exact", Boolean, nullable=False),
)  # fmt: skip
#: One row for each run on an image.
BUILDS = Table(
    "builds", METADATA,
    Column("id", _ID, primary_key=True),
    Column("token", Text, nullable=False),
    Column("started", Text, nullable=False),
    Column("image_digest", Text, nullable=False),
    Column("image_version", Text, nullable=False),
    Column("revision", Text, nullable=False),
    Column("profile", Text, nullable=False),
    Column("instance_type", Text, nullable=False),
    Column("accelerator", Text, nullable=False),
    Column("qemu", Text, nullable=False),
    Column("host_class", Text, nullable=False),
    Column("kind", String(7), nullable=False),
    Column("reports", Text, nullable=False),
)  # fmt: skip
#: One row for each value. The view `samples_in_full` has all three tables in one.
SAMPLES = Table(
    "samples", METADATA,
    Column("id", _ID, primary_key=True),
    Column("build", _ID, ForeignKey("builds.id"), nullable=False),
    Column("metric", _ID, ForeignKey("metrics.id"), nullable=False),
    Column("value", Float(53), nullable=False),
    Column("test", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("budget", Float(53)),
)  # fmt: skip
Index("samples_by_metric", SAMPLES.c.metric, SAMPLES.c.build)
