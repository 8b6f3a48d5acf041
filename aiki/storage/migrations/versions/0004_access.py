"""Access: users, sessions, API keys, failed sign-ins, and what an audit record says beside who did what."""

from __future__ import annotations

import sqlalchemy as sa

from aiki.storage.migrations import guards

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


AUDIT_COLUMNS = (
    ("reason", sa.String(1000), ""),
    ("affected", sa.Integer(), "1"),
    ("outcome", guards.ascii_(16), "done"),
    ("request_id", guards.ascii_(64), ""),
    ("source", guards.ascii_(64), ""),
)


def upgrade() -> None:
    for name, kind, default in AUDIT_COLUMNS:
        guards.add_column("aiki_audit", sa.Column(name, kind, nullable=False, server_default=default))
    guards.create_index("ix_aiki_audit_actor", "aiki_audit", ["namespace", "actor", "id"])
    guards.create_index("ix_aiki_audit_action", "aiki_audit", ["namespace", "action", "id"])
    guards.create_index("ix_aiki_audit_subject", "aiki_audit", ["namespace", "subject", "id"])
    guards.create_table(
        "aiki_users",
        sa.Column("name", guards.ascii_(64), nullable=False),
        sa.Column("password", guards.ascii_(255), nullable=False),
        sa.Column("role", guards.ascii_(16), nullable=False),
        sa.Column("namespaces", sa.Text),
        sa.Column("disabled", sa.SmallInteger, nullable=False, server_default="0"),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.String(255), nullable=False),
        sa.Column("signed_in_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("name"),
    )
    guards.create_table(
        "aiki_sessions",
        sa.Column("id", guards.binary(32), nullable=False),
        sa.Column("user_name", guards.ascii_(64), nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("csrf", guards.ascii_(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("seen_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("source", guards.ascii_(64), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    guards.create_index("ix_aiki_sessions_user_name", "aiki_sessions", ["user_name"])
    guards.create_index("ix_aiki_sessions_expires_at", "aiki_sessions", ["expires_at"])
    guards.create_table(
        "aiki_api_keys",
        sa.Column("id", guards.ascii_(16), nullable=False),
        sa.Column("hash", guards.binary(32), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("role", guards.ascii_(16), nullable=False),
        sa.Column("namespaces", sa.Text),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.String(255), nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("used_at", sa.BigInteger),
        sa.Column("revoked_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("id"),
    )
    guards.create_table(
        "aiki_sign_in_failures",
        sa.Column("id", guards.binary(32), nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("last_at", sa.BigInteger, nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    guards.create_index("ix_aiki_sign_in_failures_last_at", "aiki_sign_in_failures", ["last_at"])
