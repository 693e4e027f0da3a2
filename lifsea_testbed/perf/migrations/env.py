"""Run by Alembic to upgrade a database, on the connection in its configuration."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"])
with context.begin_transaction():
    context.run_migrations()
