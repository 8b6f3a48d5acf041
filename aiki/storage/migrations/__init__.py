"""Alembic's migrations of the tables. They are written with `aiki.storage.migrations.guards`, so that each can be repeated."""
