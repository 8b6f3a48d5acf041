"""A server that is set so that Aiki cannot work says so at the start; one that is merely odd works."""

from __future__ import annotations

import pytest

from aiki.codec import encode
from aiki.errors import ConfigurationError
from aiki.ids import new_id
from aiki.model import NewRun
from aiki.storage import Store, schema, upgrade
from tests.services import MariaServer


@pytest.mark.parametrize(
    ("option", "text"),
    [
        (["--log-bin", "--server-id=1", "--binlog-format=STATEMENT"], "binlog_format=STATEMENT.*ROW or MIXED"),
        (["--max-allowed-packet=65536"], "max_allowed_packet=65,536.*64 MB"),
    ],
)
def test_what_makes_it_of_no_use_is_told_at_the_start(option: list[str], text: str) -> None:
    with MariaServer(option) as server:
        url = server.create_database()
        store = Store(url)
        for start in (lambda: upgrade(url), store.check_schema, lambda: schema.status(url)):
            with pytest.raises(ConfigurationError, match=text):
                start()
        store.close()


def test_row_format_mode_and_character_set_of_the_server_do_not_matter() -> None:
    odd = ["--innodb-default-row-format=compact", "--sql-mode=ANSI_QUOTES,PIPES_AS_CONCAT", "--character-set-server=latin1"]
    with MariaServer(odd) as server:
        url = server.create_database()
        upgrade(url)
        store = Store(url)
        store.check_schema()
        run = NewRun(str(new_id()), "shop.charge", encode([["ä 漢 😀"], {}]))
        store.create_runs([run])
        detail = store.detail(run.id)
        assert detail is not None
        assert detail.input == run.input
        store.close()
