"""`aiki doctor`: is everything there that a run needs to reach its end, and what to do about what is not."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from typing import Final

import click

from aiki.checks import checks
from aiki.cli import common

_COLOURS: Final[dict[str, str]] = {"ok": "green", "note": "yellow", "fail": "red"}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@common.server_option
@common.database_option
@common.broker_option
@common.namespace_option
@common.output_option
def doctor(output: str, **given: str | None) -> None:
    """Check that database, schema, broker, queues, orchestrator and workers are there.

    Says what to do about what is not. Changes nothing. Exit code 1 if a check failed.
    """
    settings = common.settings_of(**given)
    found = []
    for check in checks(settings):
        found.append(check)
        if output == "table":
            verdict = click.style(check.verdict.ljust(5), fg=_COLOURS[check.verdict])
            click.echo(f"{verdict} {check.what}: {check.found}", color=False if os.environ.get("NO_COLOR") else None)
            if check.todo:
                click.echo(f"      -> {check.todo}")
    if output != "table":
        common.print_data(output, [asdict(check) for check in found])
    sys.exit(1 if any(check.verdict == "fail" for check in found) else 0)
