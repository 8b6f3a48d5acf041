"""What the workflows of `flows` come to."""

from __future__ import annotations


def ten_total(i: int, told: int) -> int:
    """What `ten` comes to."""
    total = i + 2
    return (total + 1) + (total + 2) + 2 * total + 1 + told + 1
