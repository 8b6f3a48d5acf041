"""Promises of the guides that no other test executes; `tests/docs/promises.py` has all of them, with their tests."""
