"""The cases: which product, in which variant, measured how."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Final, Literal

from bench.config import Config
from bench.contender import Contender

Kind = Literal["throughput", "enqueue", "latency", "flows"]
_CLASSES: Final = {"aiki": "AikiContender", "celery": "CeleryContender", "dramatiq": "DramatiqContender"}


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the tables.

    :ivar kind: `throughput` (enqueue all, then run all), `enqueue` (only that), `latency` (round trips, idle) or `flows` (as
        throughput, with workflows).
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
        """Whether its product can be imported."""
        return importlib.util.find_spec(self.product) is not None

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
    Case("aiki", "flow-result", "latency", "a workflow of 5 steps: enqueue().result()"),
]
BY_NAME: Final = {case.name: case for case in CASES}
