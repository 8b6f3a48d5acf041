"""The demo, smaller: tasks, and a durable workflow."""

from __future__ import annotations

import contextlib
import importlib
import re
import signal
from pathlib import Path

import pytest

from tests.cli.process import ROOT, Process, wait_gone
from tests.waiting import wait_until

DEMO = str(ROOT / "examples" / "demo.py")


def leftovers(place: Path) -> list[Path]:
    return list(place.glob("aiki-demo-*"))


def test_the_demo_accounts_for_every_run(tmp_path: Path) -> None:
    # Whatever this shell is set up for, the demo is on the embedded default.
    with Process([DEMO, "--orders", "24"], tmp_path, TMPDIR=str(tmp_path), AIKI_DATABASE_URL="mysql://nowhere/x") as process:
        process.wait_for_line("was killed with SIGKILL while it resized")
        process.wait_for_line("was killed with SIGKILL while it executed the workflow")
        family = process.family()
        assert process.wait(60) == 0, process.text
        assert "80 tasks and 10 steps" in process.lines[-1]
        assert "nothing is lost" in process.lines[-1]
        assert sum("attempt 1: SIGKILL; attempt 2 completed" in line for line in process.lines) == 2
        assert any("of 10 steps none ran again after it was recorded" in line for line in process.lines)
        where = {line.split()[3]: line for line in process.lines if re.match(r"  (checkout|shipping) +#\d", line)}
        assert re.search(r"demo/\d+ \(killed\), then demo/\d+$", where["shop.pack"])
        assert re.search(r"demo/\d+ \(failed\), then demo/\d+$", where["shop.charge"])
        wait_gone(family, 5)
        assert not leftovers(tmp_path)


def test_ctrl_c_stops_everything(tmp_path: Path) -> None:
    # So many that it cannot be through before it is stopped, however slow this process is.
    with Process([DEMO, "--orders", "3000"], tmp_path, TMPDIR=str(tmp_path)) as process:
        process.wait_for_line("runs of 3000 orders are enqueued")
        wait_until(lambda: len(process.family()) >= 6, 20)
        family = process.family()
        process.signal(signal.SIGINT)
        assert process.wait() == 130, process.text
        assert "Traceback" not in process.text
        wait_gone(family, 5)
        assert not leftovers(tmp_path)


def test_an_interrupt_that_is_lost_is_raised_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    stop = importlib.import_module("staging").Stop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        stop.listen()
        with contextlib.suppress(KeyboardInterrupt):  # as where it comes in a callback that C calls
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            stop.check()
        signal.raise_signal(signal.SIGINT)  # while it stops: it is only noted, and kills what has not ended
        assert stop.asked == 2
        another = type(stop)()
        another.listen()
        done: list[str] = []

        def end_all() -> None:
            with another.held_back():
                signal.raise_signal(signal.SIGTERM)
                done.append("nothing is left half done")

        with pytest.raises(KeyboardInterrupt):
            end_all()
        assert done
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_the_second_story_is_about_no_order_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    shop, checkout = importlib.import_module("shop"), importlib.import_module("demo_checkout")
    demo = importlib.import_module("demo")
    asked: list[str] = []
    for name in ("charge", "render_invoice", "send_mail", "refund", "resize_image"):
        task = getattr(shop, name)
        monkeypatch.setattr(type(task), "enqueue_many", lambda self, items: asked.extend(item[0] for item in items) or [])
        monkeypatch.setattr(type(task), "enqueue", lambda self, *args: asked.append(args[0]) or Enqueued())
    demo.enqueue(3000)
    assert "o-1003" in asked
    assert checkout.ORDER not in asked
    assert (shop.hiccups_of(checkout.ORDER), shop.is_declined(checkout.ORDER)) == (1, False)


class Enqueued:
    """What an enqueue gives, as far as the demo looks at it here."""

    id = "x"


def test_a_worker_that_ends_is_a_failure_told_clearly(tmp_path: Path) -> None:
    with Process([DEMO, "--orders", "24"], tmp_path, TMPDIR=str(tmp_path)) as process:
        wait_until(lambda: any("orchestrator" in child.cmdline() for child in process.family()), 20)
        process.one("orchestrator").kill()
        assert process.wait() == 1
        assert "the demo failed: the orchestrator ended with exit code -9" in process.text
        assert not leftovers(tmp_path)
