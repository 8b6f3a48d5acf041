"""`aiki installation`: who this is, whose the broker is, how many partitions there are, and whose messages are believed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from aiki.cli import common
from aiki.cli.access import actor
from aiki.settings import MAX_PARTITIONS
from aiki.signing import ACCEPT, REQUIRE, Installation

if TYPE_CHECKING:
    from aiki.broker import Session
    from aiki.settings import Settings
    from aiki.storage import Store


@click.group(cls=common.Listing, context_settings={"help_option_names": ["-h", "--help"]})
def installation() -> None:
    """Who this installation is; its partitions, signatures and keys.

    Each database is an installation of its own. A broker, under one prefix, belongs to one of them. All of these commands need
    the database.
    """


@installation.command("list")
@common.database_option
@common.output_option
def show(database: str | None, output: str) -> None:
    """Show what is on record. No secret is shown."""
    with store_of(database) as store:
        found = store.installation()
    data = {
        "id": found.id,
        "created_at": common.when(found.created_at),
        "partitions": found.partitions,
        "partitions_read": found.reading,
        "signatures": "required" if found.signatures == REQUIRE else "accepted without",
        "hands_out_keys": found.hands_out,
        "secret": "is being changed" if found.other is not None else "settled",
    }
    if output == "table":
        common.print_table(("what", "is"), [(name.replace("_", " "), value) for name, value in data.items()])
    else:
        common.print_data(output, data)


@installation.command()
@click.argument("number", type=click.IntRange(1, MAX_PARTITIONS))
@common.database_option
def partitions(number: int, database: str | None) -> None:
    """Spread the reports of new runs over NUMBER queues.

    Orchestrators read all that there ever were, so runs on their way are not touched. Processes take it up when they start.
    """
    _change(database, lambda store: store.set_partitions(number), f"partitions {number}")
    click.echo(f"{number} partitions; start services and servers anew for it, in any order")


@installation.command("require-signatures")
@common.database_option
def require_signatures(database: str | None) -> None:
    """Believe no message without a signature.

    To be done once no process of a release that does not sign is left: what such a worker sends then goes to the dead letters.
    """
    _change(database, lambda store: store.set_signatures(REQUIRE), "require signatures")
    click.echo("messages without a signature are refused from now on")


@installation.command("accept-unsigned")
@common.database_option
def accept_unsigned(database: str | None) -> None:
    """Believe messages without a signature: for processes of an older release. Wrong signatures are refused all the same."""
    _change(database, lambda store: store.set_signatures(ACCEPT), "accept unsigned messages")
    click.echo("messages without a signature are accepted from now on")


@installation.command("hand-out-keys")
@click.argument("answer", type=click.Choice(["yes", "no"]))
@common.database_option
def hand_out_keys(answer: str, database: str | None) -> None:
    """Whether orchestrators tell workers the key of their namespace (yes, the default), or each needs AIKI_WORKER_KEY (no)."""
    _change(database, lambda store: store.set_handing_out(answer == "yes"), f"hand out keys: {answer}")
    click.echo("workers are told their key" if answer == "yes" else "workers need AIKI_WORKER_KEY from now on")


@installation.command("worker-key")
@common.database_option
@common.namespace_option
def worker_key(database: str | None, namespace: str | None) -> None:
    """Print the key of a namespace, for AIKI_WORKER_KEY. Whoever has it can speak for the workers of that namespace."""
    from aiki import signing

    name = common.settings_of(database=database, namespace=namespace).namespace
    with store_of(database) as store:
        found = store.installation()
        _note(store, found, f"worker key of namespace {name} printed")
    click.echo(signing.worker_key(found.id, found.newest_key(name)))


@installation.command()
@common.database_option
def rotate(database: str | None) -> None:
    """Make a new secret, from which all keys come. Both count until `finish-rotation`; nothing needs a restart."""
    from aiki.storage.installing import ROTATION

    _change(database, lambda store: store.begin_rotation(), "rotate the secret")
    click.echo(
        f"a new secret is on record; it is used in {ROTATION} s. Later, once every AIKI_WORKER_KEY is replaced: "
        "aiki installation finish-rotation"
    )


@installation.command("finish-rotation")
@common.database_option
def finish_rotation(database: str | None) -> None:
    """Forget the old secret: what is signed with it is refused from now on."""
    _change(database, lambda store: store.finish_rotation(), "forget the old secret")
    click.echo("the old secret is forgotten")


@installation.command("take-broker")
@common.database_option
@common.broker_option
@click.confirmation_option(prompt="Is the installation that has it gone for good? Its runs would be lost otherwise")
def take_broker(database: str | None, broker: str | None) -> None:
    """Record that the broker is this installation's, whosever it was: after the database was made anew.

    What is in its queues is of the old installation: dispatches and reports that it signed become dead letters.
    """
    settings = common.settings_of(database=database, broker=broker)
    with store_of(database) as store, _session(settings) as session:
        found = store.installation()
        session.claim(found.id, anew=True)
        _note(store, found, "broker taken")
    click.echo(f"the broker is that of installation {found.id} now")


@contextmanager
def store_of(database: str | None) -> Iterator[Store]:
    """The store, whatever AIKI_PARTITIONS says: this is where it is mended."""
    from aiki.storage import open_store

    store = open_store(replace(common.settings_of(database=database), partitions=0))
    try:
        yield store
    finally:
        store.close()


@contextmanager
def _session(settings: Settings) -> Iterator[Session]:
    from aiki.broker import broker_of

    session = broker_of(settings, what="this command").connect("aiki installation", settings.timeout)
    try:
        yield session
    finally:
        session.close()


def _change(database: str | None, change: Callable[[Store], Installation], what: str) -> None:
    with store_of(database) as store:
        _note(store, change(store), what)


def _note(store: Store, found: Installation, what: str) -> None:
    store.audit(actor(), "installation.change", found.id, detail=what)
