"""Monitoring and housekeeping: webhooks and what they have to deliver, logs of runs, chores, what deleted runs left behind."""

from __future__ import annotations

import sqlalchemy as sa

from aiki.storage.migrations import guards

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    guards.create_table(
        "aiki_webhooks",
        sa.Column("namespace", guards.ascii_(64), nullable=False),
        sa.Column("id", guards.binary(16), nullable=False),
        sa.Column("url", sa.String(2000), nullable=False),
        sa.Column("states", sa.Text(), nullable=False),
        sa.Column("names", sa.Text(), nullable=False),
        sa.Column("secret", sa.String(255), nullable=False),
        sa.Column("enabled", sa.SmallInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.String(255), nullable=False),
        sa.Column("delivered_at", sa.BigInteger()),
        sa.Column("failed_at", sa.BigInteger()),
        sa.Column("error", sa.String(500)),
        sa.PrimaryKeyConstraint("namespace", "id"),
    )
    guards.create_table(
        "aiki_webhook_deliveries",
        sa.Column("namespace", guards.ascii_(64), nullable=False),
        sa.Column("id", guards.binary(16), nullable=False),
        sa.Column("webhook_id", guards.binary(16), nullable=False),
        sa.Column("run_id", guards.binary(16), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.BigInteger()),
        sa.Column("error", sa.String(500)),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "id"),
    )
    guards.create_index("ix_aiki_webhook_deliveries_due_at", "aiki_webhook_deliveries", ["due_at", "namespace", "id"])
    guards.create_index(
        "ix_aiki_webhook_deliveries_webhook", "aiki_webhook_deliveries", ["namespace", "webhook_id", "created_at", "id"]
    )
    guards.create_table(
        "aiki_run_logs",
        sa.Column("namespace", guards.ascii_(64), nullable=False),
        sa.Column("run_id", guards.binary(16), nullable=False),
        sa.Column("place", sa.SmallInteger(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("origin", sa.BigInteger(), nullable=False),
        sa.Column("logged_at", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer()),
        sa.Column("level", guards.ascii_(16), nullable=False),
        sa.Column("logger", sa.String(200), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "run_id", "place"),
    )
    guards.create_table(
        "aiki_chores",
        sa.Column("namespace", guards.ascii_(64), nullable=False),
        sa.Column("name", guards.ascii_(64), nullable=False),
        sa.Column("holder", guards.ascii_(64), nullable=False),
        sa.Column("until_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "name"),
    )
    guards.create_table(
        "aiki_leftovers",
        sa.Column("namespace", guards.ascii_(64), nullable=False),
        sa.Column("run_id", guards.binary(16), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "run_id"),
    )
