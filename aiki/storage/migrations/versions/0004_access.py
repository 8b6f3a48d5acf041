"""Access: users, sessions, API keys, failed sign-ins, and what an audit record says beside who did what."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
    "mariadb_collate": "utf8mb4_bin",
    "sqlite_with_rowid": False,
}


def ascii_(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(mysql.VARCHAR(length, charset="ascii", collation="ascii_bin"), "mysql", "mariadb")


def binary(length: int) -> sa.types.TypeEngine[bytes]:
    return sa.LargeBinary(length).with_variant(mysql.BINARY(length), "mysql", "mariadb")


AUDIT_COLUMNS = (
    ("reason", sa.String(1000), ""),
    ("affected", sa.Integer(), "1"),
    ("outcome", ascii_(16), "done"),
    ("request_id", ascii_(64), ""),
    ("source", ascii_(64), ""),
)


def upgrade() -> None:
    for name, kind, default in AUDIT_COLUMNS:
        op.add_column("audit", sa.Column(name, kind, nullable=False, server_default=default))
    op.create_index("ix_audit_actor", "audit", ["namespace", "actor", "id"])
    op.create_index("ix_audit_action", "audit", ["namespace", "action", "id"])
    op.create_index("ix_audit_subject", "audit", ["namespace", "subject", "id"])
    op.create_table(
        "users",
        sa.Column("name", ascii_(64), nullable=False),
        sa.Column("password", ascii_(255), nullable=False),
        sa.Column("role", ascii_(16), nullable=False),
        sa.Column("namespaces", sa.Text),
        sa.Column("disabled", sa.SmallInteger, nullable=False, server_default="0"),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.String(255), nullable=False),
        sa.Column("signed_in_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("name"),
        **OPTIONS,
    )
    op.create_table(
        "sessions",
        sa.Column("id", binary(32), nullable=False),
        sa.Column("user_name", ascii_(64), nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("csrf", ascii_(64), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("seen_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("source", ascii_(64), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        **OPTIONS,
    )
    op.create_index("ix_sessions_user_name", "sessions", ["user_name"])
    op.create_index("ix_sessions_expires_at", "sessions", ["expires_at"])
    op.create_table(
        "api_keys",
        sa.Column("id", ascii_(16), nullable=False),
        sa.Column("hash", binary(32), nullable=False),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("role", ascii_(16), nullable=False),
        sa.Column("namespaces", sa.Text),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.String(255), nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("used_at", sa.BigInteger),
        sa.Column("revoked_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("id"),
        **OPTIONS,
    )
    op.create_table(
        "sign_in_failures",
        sa.Column("id", binary(32), nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("last_at", sa.BigInteger, nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        **OPTIONS,
    )
    op.create_index("ix_sign_in_failures_last_at", "sign_in_failures", ["last_at"])


def downgrade() -> None:
    for table in ("sign_in_failures", "api_keys", "sessions", "users"):
        op.drop_table(table)
    for index in ("ix_audit_subject", "ix_audit_action", "ix_audit_actor"):
        op.drop_index(index, "audit")
    for name, *_ in reversed(AUDIT_COLUMNS):
        op.drop_column("audit", name)
