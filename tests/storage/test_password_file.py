"""The database's password from a file: read for each connection, so that a rotated one is taken up."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiki.errors import StorageUnavailable
from aiki.settings import Settings
from aiki.storage import open_store, upgrade
from tests.services import MariaServer


def test_a_rotated_password_is_taken_up(maria: MariaServer, mysql_database: str, tmp_path: Path) -> None:
    from sqlalchemy.engine import make_url

    database = make_url(mysql_database)
    upgrade(mysql_database)
    maria.execute("CREATE USER IF NOT EXISTS 'rotating'@'%' IDENTIFIED BY 'first'")
    maria.execute(f"GRANT ALL ON `{database.database}`.* TO 'rotating'@'%'")
    file = tmp_path / "password"
    file.write_text("first\n")
    url = database.set(username="rotating", password=None).render_as_string()
    broker = f"sqlite:///{tmp_path}/broker.db"
    settings = Settings.load({}, database_url=url, broker_url=broker, database_password_file=str(file))
    store = open_store(settings)
    try:
        maria.execute("ALTER USER 'rotating'@'%' IDENTIFIED BY 'second'")
        store.db.engine.dispose()
        store.db._reading.dispose()
        with pytest.raises(StorageUnavailable, match="Access denied") as caught:
            store.ping()
        assert "first" not in str(caught.value)
        file.write_text("second")
        store.ping()
        assert store.gauge().due == 0
        file.unlink()
        store.db._reading.dispose()
        with pytest.raises(StorageUnavailable, match=r"AIKI_DATABASE_PASSWORD_FILE: the file .* cannot be read"):
            store.ping()
    finally:
        store.close()
        maria.execute("DROP USER 'rotating'@'%'")
