"""The orchestrator: decides what happens next to a run."""

from aiki.orchestrator.loop import Orchestrator, main

__all__ = ["Orchestrator", "main"]
