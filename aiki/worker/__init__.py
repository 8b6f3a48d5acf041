"""The worker: one supervisor, one link to the orchestrator, N children that run user code. See `main.py`."""
