"""What an application sets up with `logging` is kept in workers and their children; Aiki's own lines come; none comes twice."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import wait_until
from tests.worker.conftest import Place
from tests.worker.harness import ROOT, Orchestrator, Worker

SPEAK = """
ours, theirs = logging.getLogger("aiki.worker"), logging.getLogger("shop.orders")
theirs.info("theirs"); theirs.warning("theirs, badly")
ours.debug("ours, in detail"); ours.info("ours"); ours.warning("ours, badly")
"""
FRAME = """
import logging, logging.config, sys
import aiki.worker.supervisor
from aiki.worker.log_lines import application_sets_up
with application_sets_up(sys.argv[1] or None):
    exec(sys.argv[2])
exec(sys.argv[3])
"""


def lines(set_up: str, level: str = "", then: str = SPEAK, **environment: str) -> list[str]:
    """What is written by a worker whose application does `set_up` when it is imported."""
    done = subprocess.run(
        [sys.executable, "-c", FRAME, level, set_up, then],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stderr.splitlines()


def ends(found: list[str]) -> list[str]:
    return [line.rpartition(": ")[2] for line in found]


def test_an_application_that_sets_up_nothing_has_lines_of_ours() -> None:
    found = lines("")
    assert ends(found) == ["theirs", "theirs, badly", "ours", "ours, badly"]
    assert " INFO    [" in found[0]
    assert ends(lines("", "warning")) == ["theirs, badly", "ours, badly"]
    assert ends(lines("", "debug")) == ["theirs", "theirs, badly", "ours, in detail", "ours", "ours, badly"]
    assert [json.loads(line)["message"] for line in lines("", AIKI_LOG_FORMAT="json")][:1] == ["theirs"]


def test_basic_config_is_kept() -> None:
    set_up = "logging.basicConfig(format='MINE %(levelname)s %(message)s', level='INFO')"
    assert lines(set_up) == ["MINE INFO theirs", "MINE WARNING theirs, badly", "MINE INFO ours", "MINE WARNING ours, badly"]
    assert lines(set_up, AIKI_LOG_FORMAT="json") == lines(set_up), "its own format is kept"
    assert "MINE DEBUG ours, in detail" in lines(set_up, "debug"), "an option of the worker's is about Aiki's own lines"


def test_basic_config_keeps_its_level() -> None:
    """Without a level Python takes WARNING: of the application's lines those are written, whatever ours are."""
    assert lines("logging.basicConfig(format='MINE %(message)s')") == [
        "MINE theirs, badly",
        "MINE ours",
        "MINE ours, badly",
    ]
    assert lines("logging.basicConfig(format='MINE %(message)s')", "error") == ["MINE theirs, badly"]


def test_basic_config_to_standard_output_and_to_a_file(tmp_path: Path) -> None:
    assert lines("logging.basicConfig(stream=sys.stdout, level='INFO')") == []
    log = tmp_path / "worker.log"
    assert lines(f"logging.basicConfig(filename={str(log)!r}, format='%(message)s', level='INFO')") == []
    assert log.read_text().splitlines() == ["theirs", "theirs, badly", "ours", "ours, badly"]


DICT = """logging.config.dictConfig({"version": 1, "formatters": {"f": {"format": "MINE %(name)s %(message)s"}},
    "handlers": {"h": {"class": "logging.StreamHandler", "formatter": "f"}}, REST})"""


def dictionary(rest: str) -> str:
    return DICT.replace("REST", rest)


def test_a_dictionary_with_a_root_is_kept_and_ours_are_not_silenced_by_it() -> None:
    """By default `dictConfig` silences the loggers that were there before, Aiki's among them."""
    found = lines(dictionary('"root": {"handlers": ["h"], "level": "INFO"}'))
    assert found == [
        "MINE shop.orders theirs",
        "MINE shop.orders theirs, badly",
        "MINE aiki.worker ours",
        "MINE aiki.worker ours, badly",
    ]


@pytest.mark.parametrize("propagate", [True, False])
def test_a_dictionary_for_one_logger_alone_doubles_nothing(propagate: bool) -> None:
    found = lines(dictionary(f'"loggers": {{"shop": {{"handlers": ["h"], "level": "INFO", "propagate": {propagate}}}}}'))
    assert found[:2] == ["MINE shop.orders theirs", "MINE shop.orders theirs, badly"]
    assert ends(found[2:]) == ["ours", "ours, badly"]


def test_what_a_handler_does_not_take_is_written_by_ours() -> None:
    set_up = "h = logging.StreamHandler(); h.setLevel('ERROR'); logging.getLogger('shop').addHandler(h)"
    assert ends(lines(set_up)) == ["theirs", "theirs, badly", "ours", "ours, badly"]
    quiet = "logging.getLogger('shop').addHandler(logging.NullHandler())"
    assert ends(lines(quiet)) == ["theirs", "theirs, badly", "ours", "ours, badly"]


DJANGO = """
class RequireDebugTrue(logging.Filter):
    def filter(self, record):
        return DEBUG
logging.config.dictConfig({"version": 1, "disable_existing_loggers": False,
    "filters": {"require_debug_true": {"()": RequireDebugTrue}},
    "formatters": {"f": {"format": "MINE %(message)s"}},
    "handlers": {
        "console": {"level": "INFO", "filters": ["require_debug_true"], "class": "logging.StreamHandler", "formatter": "f"},
        "mail_admins": {"level": "ERROR", "class": "logging.handlers.SMTPHandler", "mailhost": ("127.0.0.1", 1),
                        "fromaddr": "a@example.com", "toaddrs": [], "subject": "error"}},
    "loggers": {"django": {"handlers": ["console", "mail_admins"], "level": "INFO"}}})
logging.getLogger("django").handlers[1].emit = lambda record: None
"""


@pytest.mark.parametrize("early", [True, False])
def test_what_a_filter_does_not_take_is_written_by_ours(early: bool) -> None:
    """As Django sets it up: its console is for debugging alone, and its mail goes to people who are perhaps none."""
    speak = "log = logging.getLogger('django.request'); log.info('asked'); log.error('boom')"
    for debug in (False, True):
        set_up = DJANGO.replace("DEBUG", str(debug))
        found = lines(set_up if early else "", then=speak if early else set_up + speak)
        assert found == ["MINE asked", "MINE boom"] if debug else ends(found) == ["asked", "boom"]


COUNTS = """
class Once(logging.Filter):
    seen = []
    def filter(self, record):
        self.seen.append(record.msg)
        record.msg = f"{record.msg} as changed" if record.msg != "again" else record.msg
        return self.seen.count(record.msg) < 2
class Bad(logging.Filter):
    def filter(self, record):
        raise ValueError("a bad filter")
h = logging.StreamHandler()
h.setFormatter(logging.Formatter("MINE %(message)s"))
h.addFilter(Once())
logging.getLogger("shop").addHandler(h)
"""


def test_filters_that_count_or_change_records_are_asked_once() -> None:
    speak = """
log = logging.getLogger("shop.orders")
for text in ("once", "again", "again", "again"):
    log.warning(text)
print(len(Once.seen), file=sys.stderr)
h.addFilter(Bad())
try: log.warning("bad")
except ValueError as error: print(error, file=sys.stderr)
"""
    found = lines(COUNTS, then=speak)
    assert found[:2] == ["MINE once as changed", "MINE again"]
    assert ends(found[2:4]) == ["again", "again"], "what it holds back is written by ours"
    assert found[4:] == ["4", "a bad filter"]


def test_a_level_for_ours_that_the_application_chooses_counts_unless_the_worker_is_asked_for_another() -> None:
    set_up = dictionary('"root": {"handlers": ["h"]}, "loggers": {"aiki": {"level": "WARNING"}}')
    assert lines(set_up) == ["MINE shop.orders theirs, badly", "MINE aiki.worker ours, badly"]
    assert "MINE aiki.worker ours" in lines(set_up, "info")


def test_ours_may_go_to_a_place_of_their_own() -> None:
    set_up = dictionary('"loggers": {"aiki": {"handlers": ["h"], "propagate": False}}')
    found = lines(set_up)
    assert [line for line in found if line.startswith("MINE")] == ["MINE aiki.worker ours", "MINE aiki.worker ours, badly"]
    assert ends([line for line in found if not line.startswith("MINE")]) == ["theirs", "theirs, badly"]


def test_what_is_logged_while_the_application_is_imported_is_not_lost() -> None:
    found = lines("logging.getLogger('aiki.app').info('early'); logging.getLogger('shop').warning('careful')", then="")
    assert ends(found) == ["early", "careful"]
    assert " WARNING [" in found[1]


def test_later_set_up_does_not_silence_ours() -> None:
    then = dictionary('"root": {"handlers": ["h"]}') + "\nfrom aiki.logs import revive\nrevive()\n" + SPEAK
    assert "MINE aiki.worker ours" in lines("", then=then)


APP = """
import logging, logging.config
from aiki import Aiki

logging.basicConfig(format="MINE %(levelname)s %(name)s %(message)s", level="INFO")
app = Aiki("shop")
log = logging.getLogger("shop.orders")


@app.task(name="speak")
def speak(text: str) -> None:
    log.info("spoke %s", text)
    logging.debug("not this")


@app.task(name="anew")
def anew() -> None:
    logging.config.dictConfig({
        "version": 1,
        "formatters": {"f": {"format": "ANEW %(name)s %(message)s"}},
        "handlers": {"h": {"class": "logging.StreamHandler", "formatter": "f"}},
        "root": {"handlers": ["h"], "level": "INFO"},
    })


@app.task(name="fail")
def fail() -> None:
    logging.getLogger("shop.late").warning("fails")
    raise ValueError("no")
"""


def test_children_have_the_applications_set_up(embedded: Place, orchestrator: Orchestrator, tmp_path: Path) -> None:
    (tmp_path / "logging_shop.py").write_text(APP)
    worker = Worker(embedded.url, embedded.prefix, tmp_path / "log", "-c", "1", app="logging_shop", path=tmp_path)
    try:
        run = orchestrator.run("speak", "aloud")
        orchestrator.report(run)
        wait_until(lambda: "MINE INFO shop.orders spoke aloud\n" in worker.log, 30)
        assert "MINE INFO aiki.worker aiki-worker tested" in worker.log
        assert "not this" not in worker.log
        orchestrator.report(orchestrator.run("anew"))
        failed = orchestrator.run("fail")
        orchestrator.report(failed)
        wait_until(lambda: "ANEW aiki.worker.child run" in worker.log, 30)
        assert "ANEW shop.late fails" in worker.log
        [kept] = orchestrator.report(failed, "logs").body["l"]
        assert "fails" in kept, "its page has the line all the same"
        for line in worker.log.splitlines():
            assert line.startswith(("MINE", "ANEW")), line
            assert worker.log.count(f"{line}\n") == 1
    finally:
        worker.stop()
