"""The verbs of the installation: who this is, how many partitions there are, whose messages are believed.

One row. It is made by the first process that opens the database after the table is there. A database in which nothing ever ran
begins with signatures required; in one that was upgraded, messages without them are believed until somebody says otherwise,
because processes of the last release send none.
"""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from aiki import ids
from aiki.clock import SECOND, Clock
from aiki.errors import ConfigurationError, RunConflict
from aiki.settings import DEFAULT_PARTITIONS, MAX_PARTITIONS
from aiki.signing import ACCEPT, REQUIRE, SECRET_BYTES, Installation
from aiki.states import TERMINAL
from aiki.storage.engine import Database

ROTATION: Final = 120
"""Seconds from the moment that a new secret is on record, and handed out, to that from which it is used to sign."""
_SAMPLE: Final = 10_000
_COLUMNS: Final = (
    "one",
    "id",
    "created_at",
    "partitions",
    "reading",
    "secret",
    "other",
    "switch_at",
    "signatures",
    "hands_out",
)


class Installing:
    """See the module. Every method may raise `StorageUnavailable`."""

    db: Database
    clock: Clock
    partitions: int

    def installation(self) -> Installation:
        """What is on record; made if nothing is. `Store.partitions`, unless it is 0, is what a new record says."""
        found = self.db.read(self._read_installation)
        return self.db.transaction(self._make_installation) if found is None else found

    def agree_on_partitions(self) -> Installation:
        """See that this process spreads runs over as many report queues as the others do.

        :raises ConfigurationError: it was told another number than that on record.
        """
        found = self.installation()
        if self.partitions not in (0, found.partitions):
            raise ConfigurationError(
                f"AIKI_PARTITIONS={self.partitions}, and this installation has {found.partitions} on record: unset it, or "
                f"change the record for all processes: aiki installation partitions {self.partitions}"
            )
        self.partitions = found.partitions
        return found

    def set_partitions(self, number: int) -> Installation:
        """Spread new runs over so many report queues. All that there ever were are read as before: runs may be on their way."""
        if not 1 <= number <= MAX_PARTITIONS:
            raise ConfigurationError(f"{number} partitions: it must be from 1 to {MAX_PARTITIONS}")
        return self._change(lambda old: replace(old, partitions=number, reading=max(old.reading, number)))

    def set_signatures(self, signatures: str) -> Installation:
        """Require signatures (`REQUIRE`), or believe messages without (`ACCEPT`)."""
        return self._change(lambda old: replace(old, signatures=signatures))

    def set_handing_out(self, hands_out: bool) -> Installation:
        """Whether orchestrators tell workers their namespace's key."""
        return self._change(lambda old: replace(old, hands_out=hands_out))

    def begin_rotation(self) -> Installation:
        """Put a new secret on record. Both count until `finish_rotation`. Raises `RunConflict` if a change is under way."""

        def begin(old: Installation) -> Installation:
            if old.other is not None:
                raise RunConflict("the secret is being changed already; finish that first: aiki installation finish-rotation")
            return replace(old, other=secrets.token_bytes(SECRET_BYTES), switch_at=self.clock() + ROTATION * SECOND)

        return self._change(begin)

    def finish_rotation(self) -> Installation:
        """Forget the old secret. Raises `RunConflict` if there is none, or if the new one is too young."""

        def finish(old: Installation) -> Installation:
            if old.other is None:
                raise RunConflict("the secret is not being changed; begin with: aiki installation rotate")
            left = (old.switch_at - self.clock()) / SECOND + ROTATION
            if left > 0:
                raise RunConflict(f"workers are still coming to know the new secret; try again in {left:.0f} s")
            return replace(old, secret=old.other, other=None, switch_at=0)

        return self._change(finish)

    # ------------------------------------------------------------ the row
    def _change(self, change: Any) -> Installation:
        self.installation()

        def work(connection: sa.Connection) -> Installation:
            sql = f"SELECT one FROM aiki_installation WHERE one = 1 {self.db.dialect.for_update}"
            self.db.execute(connection, sql).fetchall()
            old = self._read_installation(connection)
            assert old is not None
            new: Installation = change(old)
            self.db.execute(
                connection,
                "UPDATE aiki_installation SET partitions = ?, reading = ?, secret = ?, other = ?, switch_at = ?, "
                "signatures = ?, hands_out = ? WHERE one = 1",
                (
                    *(new.partitions, new.reading, new.secret, new.other, new.switch_at),
                    *(new.signatures, int(new.hands_out)),
                ),
            )
            return new

        return self.db.transaction(work)

    def _read_installation(self, connection: sa.Connection) -> Installation | None:
        columns = ", ".join(_COLUMNS[1:])
        row = self.db.execute(connection, f"SELECT {columns} FROM aiki_installation WHERE one = 1").fetchone()
        if row is None:
            return None
        secret, other = bytes(row[4]), None if row[5] is None else bytes(row[5])
        return Installation(str(row[0]), row[1], row[2], row[3], secret, other, row[6], str(row[7]), bool(row[8]))

    def _make_installation(self, connection: sa.Connection) -> Installation:
        used = self._highest_partition(connection)
        wanted = self.partitions or max(DEFAULT_PARTITIONS, (used or 0) + 1)
        signatures = REQUIRE if used is None and not self._has_workers(connection) else ACCEPT
        columns = ", ".join(_COLUMNS)
        sql = self.db.dialect.if_new(f"INSERT INTO aiki_installation ({columns}) VALUES (1, ?, ?, ?, ?, ?, NULL, 0, ?, 1)")
        reading = max(wanted, self._highest_unended(connection, used) + 1)
        values = (ids.new_id().hex, self.clock(), wanted, reading, secrets.token_bytes(SECRET_BYTES), signatures)
        self.db.execute(connection, sql, values)
        found = self._read_installation(connection)
        assert found is not None
        return found

    def _has_workers(self, connection: sa.Connection) -> bool:
        """Whether a worker ever said hello here."""
        return self.db.execute(connection, "SELECT 1 FROM aiki_workers LIMIT 1").fetchone() is not None

    def _highest_partition(self, connection: sa.Connection) -> int | None:
        """The highest partition of the newest runs, None if there are no runs."""
        newest = f"SELECT partition_no FROM aiki_runs ORDER BY namespace DESC, id DESC LIMIT {_SAMPLE}"
        row = self.db.execute(connection, f"SELECT MAX(partition_no) FROM ({newest}) AS newest").fetchone()
        return None if row[0] is None else int(row[0])

    def _highest_unended(self, connection: sa.Connection, used: int | None) -> int:
        """The highest partition of runs that have not ended; the highest that there can be if it takes too long to see."""
        if used is None:
            return 0
        marks = ", ".join("?" * len(TERMINAL))
        sql = f"SELECT MAX(partition_no) FROM aiki_runs WHERE state NOT IN ({marks})"
        try:
            rows = self.db.look(connection, sql, sorted(TERMINAL), 2.0)
        except DBAPIError:
            return MAX_PARTITIONS - 1
        return max(used, int(rows[0][0] or 0))
