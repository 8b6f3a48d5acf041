"""Alembic's environment: always online, on the connection that `aiki.storage.schema` hands in."""

from alembic import context

from aiki.storage.migrations.legacy import VERSION_TABLE
from aiki.storage.tables import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=connection.dialect.name in ("sqlite", "postgresql"),
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
