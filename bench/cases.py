"""The cases: which product, in which variant, measured how."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Final, Literal

from bench.config import Config
from bench.contender import Contender
from bench.provision import obtainable

Kind = Literal["throughput", "enqueue", "latency", "flows"]
_CLASSES: Final = {
    "aiki": "AikiContender",
    "celery": "CeleryContender",
    "dramatiq": "DramatiqContender",
    "dbos": "DbosContender",
    "restate": "RestateContender",
}
_MODULES: Final = {"dbos": ("dbos", "psycopg"), "restate": ("restate", "hypercorn")}
"""What a product consists of where that is not one module of its name."""


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the tables.

    :ivar kind: `throughput` (enqueue all, then run all), `enqueue` (only that), `latency` (round trips, idle) or `flows` (as
        throughput, with workflows; those that run on arrival are timed from the first send).
    """

    product: str
    variant: str
    kind: Kind
    what: str

    @property
    def name(self) -> str:
        """How it is called in tables and in `--only`."""
        return f"{self.product}-{self.variant}"

    @property
    def installed(self) -> bool:
        """Whether its product can be imported, and the server that it needs is there or can be installed."""
        modules = _MODULES.get(self.product, (self.product,))
        return all(importlib.util.find_spec(module) is not None for module in modules) and obtainable(self.product)

    def contender(self, config: Config) -> Contender:
        """Load the product."""
        made: Contender = getattr(importlib.import_module(f"bench.using_{self.product}"), _CLASSES[self.product])(
            config, self.variant
        )
        return made


CASES: Final = [
    Case("aiki", "many", "throughput", "enqueue_many"),
    Case("aiki", "one-per-message", "throughput", "enqueue_many, one run a message (batch=1)"),
    Case("aiki", "single", "throughput", "a loop of enqueue"),
    Case("celery", "none", "throughput", "a loop of delay, results ignored"),
    Case("celery", "mysql", "throughput", "a loop of delay, results in the database"),
    Case("celery", "none-confirm", "enqueue", "a loop of delay, confirm_publish"),
    Case("dramatiq", "none", "throughput", "a loop of send, results ignored"),
    Case("aiki", "result", "latency", "enqueue().result(), embedded client"),
    Case("celery", "rpc", "latency", "delay().get(), rpc backend"),
    Case("aiki", "flows", "flows", "workflows of 5 steps, enqueue_many, -c 2"),
    Case("aiki", "flows-8", "flows", "workflows of 5 steps, enqueue_many, -c 8"),
    Case("aiki", "flows-single", "flows", "workflows of 5 steps, a loop of enqueue, -c 8"),
    Case("dbos", "flows", "flows", "workflows of 5 steps, a loop of enqueue, 2 processes"),
    Case("restate", "flows", "flows", "workflows of 5 steps, 8 senders, 2 processes, run on arrival"),
    Case("aiki", "flow-result", "latency", "a workflow of 5 steps: enqueue().result()"),
    Case("dbos", "flow-result", "latency", "a workflow of 5 steps, called in the client's process"),
    Case("dbos", "flow-queue", "latency", "a workflow of 5 steps: enqueue().get_result()"),
    Case("restate", "flow-result", "latency", "a workflow of 5 steps: a request that waits for its result"),
]
BY_NAME: Final = {case.name: case for case in CASES}
