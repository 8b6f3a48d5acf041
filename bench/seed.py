"""`python -m bench.seed --url mysql+pymysql://… --runs 1000000`: fill a database with runs as a busy shop has them.

A block of 10,000 runs is made here, row by row: 40 names of very different frequency, 6 queues, all states, errors, reference
ids, retries, workflows with steps and children, arguments. The database then copies it into the past, block by block, oldest
first, with ids of their times, so that a million runs take minutes. What is under way is in the newest block alone.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator
from typing import Any, Final

from aiki import codec
from aiki.clock import SECOND
from aiki.storage import Store, upgrade
from aiki.storage.statistics import WIDTHS
from aiki.storage.tallying import BUCKETS, COLUMNS, COUNTERS, RAN, WAITED

BLOCK: Final = 10_000
DAYS: Final = 30
AREAS: Final = ("mail", "shop", "billing", "search", "media", "report", "crm", "stock")
VERBS: Final = ("send", "sync", "charge", "index", "render")
NAMES: Final = tuple(f"{area}.{verb}" for area in AREAS for verb in VERBS)
QUEUES: Final = ("default", "bulk", "mail", "payments", "media", "slow")
ENDS: Final = (("completed", 94.0), ("failed", 3.5), ("cancelled", 1.5), ("dead", 1.0))
UNDER_WAY: Final = (
    *(("queued", 50.0), ("running", 3.0), ("waiting", 30.0)),
    *(("scheduled", 12.0), ("paused", 2.0), ("stalled", 3.0)),
)
ERRORS: Final = (
    ("TimeoutError", "no answer from {host} within 30 s"),
    ("requests.exceptions.ConnectionError", "cannot connect to {host}"),
    ("shop.PaymentDeclined", "card of customer {n} was declined"),
    ("ValueError", "sku {n} is unknown"),
    ("sqlalchemy.exc.OperationalError", "deadlock found when trying to get lock"),
)
RUN_COLUMNS: Final = (
    *("namespace", "id", "kind", "name", "version", "queue", "state", "epoch", "attempt", "partition_no", "reference_id"),
    *("waiting_on", "error_type", "error_message", "created_at", "dispatched_at", "started_at", "finished_at", "updated_at"),
    *("parent_id", "parent_ordinal", "history"),
)
PAYLOAD_COLUMNS: Final = ("namespace", "run_id", "role", "encoding", "data")
STEP_COLUMNS: Final = (
    *("namespace", "run_id", "ordinal", "kind", "name", "digest", "state", "attempt", "input", "child_id", "created_at"),
    "finished_at",
)
REFERENCE_COLUMNS: Final = ("namespace", "name", "reference_id", "run_id", "input_hash")


def main() -> int:
    """Fill; tells what it did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="SQLAlchemy URL of a database that is made or brought to this schema")
    parser.add_argument("--runs", type=int, default=1_000_000)
    options = parser.parse_args()
    begun = time.monotonic()
    upgrade(options.url)
    store = Store(options.url, timeout=300.0)
    count = seed(store, options.runs)
    store.close()
    print(f"{count:,} runs in {time.monotonic() - begun:.0f} s")
    return 0


def seed(store: Store, runs: int, *, tell: bool = True) -> int:
    """Fill a database; how many runs it was given."""
    now = store.clock()
    span = DAYS * 86400 * SECOND // max(1, runs // BLOCK)
    block = min(runs, BLOCK)
    made = Block(store.namespace, now - span, span, block, random.Random(7))
    store.db.transaction(lambda connection: made.write(store, connection))
    blocks = runs // BLOCK
    for number in range(blocks - 1, 0, -1):
        store.db.transaction(lambda connection, number=number: copy(store, connection, made, number, span))
        if tell and number % 10 == 0:
            print(f"{(blocks - number) * BLOCK:,} runs", file=sys.stderr, flush=True)
    store.register_definitions_if_new(store.namespace, [(name, "1", "task") for name in NAMES])
    fill_statistics(store, now)
    if store.db.dialect.name != "sqlite":
        store.db.transaction(lambda connection: store.db.execute(connection, "ANALYZE TABLE aiki_runs").fetchall())
    return max(1, blocks) * block


class Block:
    """Rows of one stretch of time."""

    def __init__(self, namespace: str, start: int, span: int, count: int, rng: random.Random) -> None:
        self.first = start
        self._namespace = namespace
        self._rng = rng
        self.runs: list[tuple[Any, ...]] = []
        self.inputs: list[tuple[Any, ...]] = []
        self.steps: list[tuple[Any, ...]] = []
        self.references: list[tuple[Any, ...]] = []
        workflow: tuple[bytes, int] | None = None
        for number in range(count):
            at = start + span * number // count
            recent = number > count * 0.95
            workflow = self._run(number, at, recent, workflow)

    def _run(self, number: int, at: int, recent: bool, parent: tuple[bytes, int] | None) -> tuple[bytes, int] | None:
        rng = self._rng
        raw = run_id(at, rng)
        name = NAMES[min(int(rng.expovariate(0.15)), len(NAMES) - 1)]
        choices = UNDER_WAY if recent and rng.random() < 0.5 else ENDS
        state = rng.choices([item for item, _ in choices], [weight for _, weight in choices])[0]
        kind = "workflow" if number % 20 == 0 else "task"
        child = parent if number % 20 in (1, 2, 3) else None
        waited, ran = int(rng.expovariate(1 / 200_000)), int(rng.lognormvariate(11.5, 2))
        started = at + waited if state in ("running", "completed", "failed", "dead", "cancelled") else None
        finished = at + waited + ran if started and state != "running" else None
        error, message = None, None
        if state in ("failed", "dead"):
            error, text = rng.choice(ERRORS)
            message = text.format(host=f"host-{number % 30}", n=number)
        reference = f"o-{number}" if number % 4 == 0 else None
        attempt = 1 + (rng.randrange(4) if error else 0)
        queue = QUEUES[min(int(rng.expovariate(0.8)), len(QUEUES) - 1)]
        waiting_on = {"stalled": f"no worker has {name}@1", "waiting": "event approved"}.get(state)
        self.runs.append(
            (
                *(self._namespace, raw, kind, name, "1", queue, state, 1, attempt, number % 4, reference),
                *(waiting_on, error, message, at, at, started, finished, finished or started or at),
                *((child[0], child[1] + number % 20 - 1) if child else (None, None)),
                5 if kind == "workflow" else 0,
            )
        )
        payload = codec.encode(
            [[number % 997], {"order_id": number, "customer": {"id": number % 5000, "mail": f"c{number}@example.org"}}]
        )
        self.inputs.append((self._namespace, raw, "input", payload.encoding, payload.text))
        if reference:
            self.references.append((self._namespace, name, reference, raw, raw + raw))
        if kind != "workflow":
            return parent
        for ordinal in range(5):
            state = "completed" if finished else "open"
            row = (self._namespace, raw, ordinal, "step", f"{name}.part", "0" * 32, state, 1, "[]", None, at, finished)
            self.steps.append(row)
        return raw, 0

    def write(self, store: Store, connection: Any) -> None:
        """Insert the rows as they are."""
        db = store.db
        inputs = [(*row[:4], db.dialect.blob(row[4])) for row in self.inputs]
        for table, columns, rows in (
            ("aiki_runs", RUN_COLUMNS, self.runs),
            ("aiki_payloads", PAYLOAD_COLUMNS, inputs),
            ("aiki_steps", STEP_COLUMNS, self.steps),
            ("aiki_reference_ids", REFERENCE_COLUMNS, self.references),
        ):
            for start in range(0, len(rows), 500):
                db.insert(connection, table, columns, rows[start : start + 500])


def run_id(at: int, rng: random.Random) -> bytes:
    """A UUIDv7 of that time."""
    return (at // 1000).to_bytes(6, "big") + bytes([0x70 | rng.getrandbits(4), rng.getrandbits(8), 0x80]) + rng.randbytes(7)


def copy(store: Store, connection: Any, block: Block, number: int, span: int) -> None:
    """The block once more, `number` spans earlier. Ids are those of the block with other times and one other byte."""
    shift = number * span
    mark = f"{number % 256:02x}"
    last = block.first + span

    def moved(column: str) -> str:
        # The time is the first six bytes, rounded to milliseconds as the rows' own are.
        old = f"CONV(SUBSTR(HEX({column}), 1, 12), 16, 10)"
        return f"UNHEX(CONCAT(LPAD(CONV({old} - {shift // 1000}, 10, 16), 12, '0'), SUBSTR(HEX({column}), 13, 6), '{mark}'," + (
            f" SUBSTR(HEX({column}), 21)))"
        )

    times = {name: f"{name} - {shift}" for name in ("created_at", "dispatched_at", "started_at", "finished_at", "updated_at")}
    changed = {
        "id": moved("id"),
        "parent_id": moved("parent_id"),
        "reference_id": f"CONCAT(reference_id, '-{number}')",
        # What is under way is in the newest block alone.
        "state": "CASE WHEN state IN ('completed','failed','cancelled','dead') THEN state ELSE 'completed' END",
        "waiting_on": "NULL",
        **times,
    }
    key = f"namespace = '{store.namespace}' AND"
    window = f"{key} created_at >= {block.first} AND created_at < {last}"
    select = ", ".join(changed.get(column, column) for column in RUN_COLUMNS)
    statements = [f"INSERT INTO aiki_runs ({', '.join(RUN_COLUMNS)}) SELECT {select} FROM aiki_runs WHERE {window} ORDER BY id"]
    low, high = (block.first // 1000).to_bytes(6, "big").hex(), (last // 1000 + 1).to_bytes(6, "big").hex()
    within = f"{key} run_id >= UNHEX('{low}00000000000000000000') AND run_id < UNHEX('{high}00000000000000000000')"
    for table, columns, more in (
        ("aiki_payloads", PAYLOAD_COLUMNS, {"run_id": moved("run_id")}),
        ("aiki_steps", STEP_COLUMNS, {"run_id": moved("run_id")} | {at: times[at] for at in ("created_at", "finished_at")}),
        ("aiki_reference_ids", REFERENCE_COLUMNS, {"run_id": moved("run_id"), "reference_id": changed["reference_id"]}),
    ):
        select = ", ".join(more.get(column, column) for column in columns)
        statements.append(f"INSERT INTO {table} ({', '.join(columns)}) SELECT {select} FROM {table} WHERE {within}")
    for sql in statements:
        connection.exec_driver_sql(sql)


def fill_statistics(store: Store, now: int) -> None:
    """Sums as they would stand after such a month."""
    rows = list(_sums(store.namespace, now, random.Random(8)))
    for start in range(0, len(rows), 5000):
        part = rows[start : start + 5000]
        store.db.transaction(lambda connection, part=part: store._add(connection, part))


def _sums(namespace: str, now: int, rng: random.Random) -> Iterator[tuple[Any, ...]]:
    for width, kept in WIDTHS.items():
        for at in range(now - now % width - min(kept, DAYS * 86400 * SECOND), now, width):
            for name in NAMES[:25]:
                done = rng.randrange(200)
                counts = dict.fromkeys(COLUMNS, 0) | {"started": done, "completed": done, "failed": rng.randrange(5)}
                assert set(COUNTERS) <= set(counts)
                for columns in (WAITED, RAN):
                    counts[columns[rng.randrange(BUCKETS // 2)]] = done
                yield (namespace, width // SECOND, at, name, "default", *counts.values())


if __name__ == "__main__":
    sys.exit(main())
