"""`aiki workers`: who works here, and at what."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from aiki.cli import common
from aiki.errors import ConfigurationError


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-a", "--all", "all_", is_flag=True, help="Also those that stopped or were lost.")
@common.database_option
@common.namespace_option
@common.output_option
def workers(all_: bool, database: str | None, namespace: str | None, output: str) -> None:
    """List the workers, their queues and what they execute. Asks the database, not the server."""
    from aiki.storage import open_store
    from aiki.storage.roster import ALIVE, WorkerRow

    settings = common.settings_of(database=database, namespace=namespace)
    if settings.server_url and database is None:
        raise ConfigurationError("AIKI_SERVER_URL is set, and the server cannot be asked for workers yet; name --database")
    store = open_store(settings)
    try:
        rows, now = store.workers(None if all_ else ALIVE), store.clock()
    finally:
        store.close()

    def busy(row: WorkerRow) -> str:
        names = [str(child.get("name")) for child in row.children if child.get("run")]
        return f"{len(names)}/{row.concurrency}" + (f" {', '.join(names)}" if names else "")

    def as_json(row: WorkerRow) -> dict[str, Any]:
        data = asdict(row)
        data["definitions"] = sorted([name, version] for name, version in row.definitions)
        return {key: common.when(value) if key.endswith("_at") else value for key, value in data.items()}

    if output == "json":
        common.print_json([as_json(row) for row in rows])
        return
    header = ("WORKER", "NAME", "HOST", "PID", "STATE", "QUEUES", "HEARD", "BUSY")
    lines = [
        (row.id[:12], row.name, row.host, row.pid, row.state, ",".join(row.queues), common.ago(row.heard_at, now), busy(row))
        for row in rows
    ]
    common.print_table(header, lines)
