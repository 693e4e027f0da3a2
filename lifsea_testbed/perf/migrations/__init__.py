"""Alembic migrations of the tables of a history."""
