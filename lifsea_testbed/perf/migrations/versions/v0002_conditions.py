"""The conditions of a run that its figures depend on: processor model, workers, memory of a guest."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

#: The new columns, and what they hold for builds that were stored before: not recorded.
_ADDED = {"processor": (sa.Text, ""), "workers": (sa.Integer, "0"), "memory": (sa.Integer, "0")}
_VIEW = """
CREATE VIEW samples_in_full AS
SELECT samples.id, metrics.name AS metric, metrics.id AS metric_id, metrics.unit, metrics.better, metrics.definition,
       samples.value, samples.budget, samples.test, samples.number, builds.token, builds.started, builds.image_digest,
       builds.image_version, builds.revision, builds.profile, builds.instance_type, builds.accelerator, builds.qemu,
       builds.host_class, {added}builds.kind, builds.reports
FROM samples JOIN builds ON builds.id = samples.build JOIN metrics ON metrics.id = samples.metric
"""


def upgrade() -> None:
    """Adds the columns, to the view as well."""
    for name, (kind, before) in _ADDED.items():
        op.add_column("builds", sa.Column(name, kind, nullable=False, server_default=before))
    _replace_view("".join(f"builds.{name}, " for name in _ADDED))


def downgrade() -> None:
    """Removes the columns."""
    _replace_view("")
    for name in _ADDED:
        op.drop_column("builds", name)


def _replace_view(added: str) -> None:
    op.execute("DROP VIEW samples_in_full")
    op.execute(_VIEW.format(added=added))
