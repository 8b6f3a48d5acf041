"""Which tests need a server, a browser or a worker process, and which need nothing: the latter are marked.

| mark | what it says |
|---|---|
| `unit` | needs neither a server nor a process of its own, and is quick |
| `lab` | takes long, and disturbs nobody: the simulation, generated cases, types, each page in a browser |

`make unit` runs the first, several at a time, and answers in under two minutes on a machine without any server. `make test`
runs both in the same way, then all others one after another: those watch clocks and kill processes, and must not disturb each
other.
"""

from __future__ import annotations

from pathlib import Path

import pytest

SERVER_FIXTURES = frozenset(
    {
        *("_launched", "rabbit", "maria", "rabbit4", "mysql9", "postgres", "live"),
        *("own_rabbit", "own_maria", "own_rabbit4", "own_mysql9", "own_postgres"),
    }
)
"""What starts a server (ours, too), directly or through fixtures of their own."""
SERVER_PARAMETERS = frozenset({"mysql", "amqp", "real", "quorum", "maria", "rabbit", "mysql9", "rabbit4", "postgres"})
"""Ids of parameters whose fixture asks for a server only when it runs."""
PROCESSES = frozenset({"browser", "cli", "confined", "demo", "docs", "examples", "system", "worker"})
"""Folders whose tests start processes of ours and wait for them."""
PROCESS_FILES = frozenset(
    {
        "test_bench.py",
        "test_checks.py",
        "test_compose.py",
        "test_rabbitmq_definitions.py",
        "test_readme.py",
        "test_remote_client.py",
        "test_services.py",
        "test_server.py",
        "test_server_settings.py",
        "test_tls.py",
    }
)
"""Single files that do the same."""
READING = frozenset({("docs", "test_glossary.py"), ("docs", "test_promises.py")})
"""Files in such folders that only read the tree."""
LAB = frozenset(
    {
        "simulation",
        "test_fuzzed.py",
        "test_injected.py",
        "test_lost_answers.py",
        "test_messages_fuzzed.py",
        "test_properties.py",
        "test_same_seen.py",
        "test_schemathesis.py",
        "test_typing.py",
    }
)
"""Folders and files that need nothing and take long."""
PAGES = ("browser", "test_pages.py")
"""Looks at pages, one after the other, on an embedded server of its own: whatever runs beside it does not matter to it."""
_ROOT = Path(__file__).resolve().parent


def stands_alone(item: pytest.Item) -> bool:
    """Whether this test needs neither a server nor a process of its own, so that others may run beside it."""
    path = item.path.relative_to(_ROOT)
    if path.parts == PAGES:
        return True
    if path.parts in READING:
        return True
    if path.parts[0] in PROCESSES or path.name in PROCESS_FILES:
        return False
    if SERVER_FIXTURES & set(getattr(item, "fixturenames", ())):
        return False
    parameters = getattr(getattr(item, "callspec", None), "_idlist", ())
    return not any(part in SERVER_PARAMETERS for name in parameters for part in str(name).split("-"))


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them."""
    for item in items:
        if stands_alone(item):
            path = item.path.relative_to(_ROOT)
            item.add_marker(pytest.mark.lab if path.parts == PAGES or LAB & {path.parts[0], path.name} else pytest.mark.unit)
