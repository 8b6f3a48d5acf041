"""What orchestrators refused, counted for metrics; and the messages that came back after a process had died with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import sqlalchemy as sa

from aiki.clock import Clock
from aiki.storage.engine import Database


class Refusal(NamedTuple):
    """How often something of a source was refused: `reports`, `work`, `heartbeat`, `runs`, `duty sweep` and the like."""

    source: str
    times: int
    last_at: int
    why: str


class Refusals:
    """Counting. The rows are of the namespace that an orchestrator is started with, as its own row is."""

    db: Database
    clock: Clock
    namespace: str

    def count_refusals(self, counts: Mapping[str, int], last: Mapping[str, str]) -> None:
        """Add to the counts of sources; `last`: why the last one of each was refused."""

        def work(connection: sa.Connection) -> None:
            now = self.clock()
            for source, count in sorted(counts.items()):
                why = last.get(source, "").encode("ascii", "backslashreplace").decode("ascii")[:500]
                key = (self.namespace, source.encode("ascii", "backslashreplace").decode("ascii")[:64])
                sql = "UPDATE aiki_refusals SET times = times + ?, last_at = ?, why = ? WHERE namespace = ? AND source = ?"
                if not self.db.execute(connection, sql, (count, now, why, *key)).rowcount:
                    columns = ("namespace", "source", "times", "last_at", "why")
                    self.db.insert_new(connection, "aiki_refusals", columns, [(*key, count, now, why)])

        self.db.transaction(work)

    def refusals(self) -> list[Refusal]:
        """The counts of all orchestrators together, by source."""
        sql = "SELECT source, SUM(times), MAX(last_at), MAX(why) FROM aiki_refusals GROUP BY source ORDER BY source LIMIT 500"
        rows = self.db.read(lambda connection: self.db.execute(connection, sql).fetchall())
        return [Refusal(source, int(times), at, why) for source, times, at, why in rows]

    # ------------------------------------------------------------ messages that came back
    def returns(self, digests: Sequence[bytes]) -> dict[bytes, int]:
        """How often a process ended with these messages in its hands, as far as was noted; those never noted are absent."""
        sql = "SELECT digest, times FROM aiki_returns WHERE namespace = '' AND digest"
        rows = self.db.read(lambda connection: self.db.where_in(connection, sql, (), sorted(set(digests))))
        return {bytes(digest): times for digest, times in rows}

    def note_returns(self, digests: Sequence[bytes]) -> None:
        """A process is about to work on these messages, which have come back: unless it says `forget_returns`, it ended with
        them."""
        wanted = sorted(set(digests))

        def work(connection: sa.Connection) -> None:
            now = self.clock()
            sql = "UPDATE aiki_returns SET times = times + 1, noted_at = ? WHERE namespace = '' AND digest"
            self.db.insert_new(
                connection,
                "aiki_returns",
                ("namespace", "digest", "times", "noted_at"),
                [("", digest, 0, now) for digest in wanted],
            )
            self.db.where_in(connection, sql, (now,), wanted)

        self.db.transaction(work)

    def forget_returns(self, digests: Sequence[bytes]) -> None:
        """These were worked on, and the process lives."""
        wanted = sorted(set(digests))
        sql = "DELETE FROM aiki_returns WHERE namespace = '' AND digest"
        self.db.transaction(lambda connection: self.db.where_in(connection, sql, (), wanted))

    def purge_returns(self, before: int) -> int:
        """Delete what was noted before `before`; how many rows."""
        sql = "DELETE FROM aiki_returns WHERE noted_at < ?"
        return self.db.transaction(lambda connection: int(self.db.execute(connection, sql, (before,)).rowcount))
