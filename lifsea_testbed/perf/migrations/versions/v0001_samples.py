"""Metrics, builds and samples, and a view that joins them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_TEXTS = ("token", "started", "image_digest", "image_version", "revision", "profile", "instance_type", "accelerator",
          "qemu", "host_class")  # fmt: skip
_VIEW = """
CREATE VIEW samples_in_full AS
SELECT samples.id, metrics.name AS metric, metrics.id AS metric_id, metrics.unit, metrics.better, metrics.definition,
       samples.value, samples.budget, samples.test, samples.number, builds.token, builds.started, builds.image_digest,
       builds.image_version, builds.revision, builds.profile, builds.instance_type, builds.accelerator, builds.qemu,
       builds.host_class, builds.kind, builds.reports
FROM samples JOIN builds ON builds.id = samples.build JOIN metrics ON metrics.id = samples.metric
"""


def upgrade() -> None:
    """Makes the tables and the view."""
    op.create_table("metrics", _identifier(), _text("name"), _text("unit"), _text("better", 6), _text("definition"),
                    sa.Column("exact", sa.Boolean, nullable=False))  # fmt: skip
    op.create_table("builds", _identifier(), *map(_text, _TEXTS), _text("kind", 7), _text("reports"))
    op.create_table(
        "samples", _identifier(),
        sa.Column("build", sa.String(32), sa.ForeignKey("builds.id"), nullable=False),
        sa.Column("metric", sa.String(32), sa.ForeignKey("metrics.id"), nullable=False),
        sa.Column("value", sa.Float(53), nullable=False), _text("test"),
        sa.Column("number", sa.Integer, nullable=False), sa.Column("budget", sa.Float(53)),
    )  # fmt: skip
    op.create_index("samples_by_metric", "samples", ["metric", "build"])
    op.execute(_VIEW)


def downgrade() -> None:
    """Removes the view and the tables, with everything that they hold."""
    op.execute("DROP VIEW samples_in_full")
    for table in ("samples", "builds", "metrics"):
        op.drop_table(table)


def _identifier() -> sa.Column[str]:
    return sa.Column("id", sa.String(32), primary_key=True)


def _text(name: str, length: int | None = None) -> sa.Column[str]:
    return sa.Column(name, sa.String(length) if length else sa.Text, nullable=False)
