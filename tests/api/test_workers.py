"""The endpoints of workers and orchestrators."""

from __future__ import annotations

from aiki import messages as m
from aiki.ids import new_id
from aiki.messages import Heartbeat
from aiki.storage.roster import Said
from tests.api.conftest import Api, problem


def test_workers(api: Api) -> None:
    worker, run = new_id().hex, new_id()
    fields = {"name": "w1", "host": "h", "pid": 7, "queues": ["default"], "concurrency": 1, "definitions": [], "version": "9"}
    api.store.save_worker(Heartbeat("default", m.HELLO, worker, [], fields))
    child = {"slot": 0, "pid": 8, "run": run.hex, "name": "shop.charge", "ms": 1500, "rss": 2048}
    api.store.heard("default", {worker: Said([child], 4096)})
    found = api.get(f"/workers/{worker}").json
    assert api.get("/workers").json == {"workers": [found]}
    assert (found["memory"], found["version"], found["wanted"], found["draining"]) == (4096, "9", None, False)
    (told,) = found["children"]
    assert (told["run"], told["memory"]) == (str(run), 2048)
    assert told["since"] < found["heard_at"]
    assert api.post(f"/workers/{worker}/drain", {"reason": "moving"}).json["wanted"] == "drain"
    assert api.post(f"/workers/{worker}/stop", {"at_once": True}).json["wanted"] == "kill"
    assert api.post(f"/workers/{worker}/stop").json["wanted"] == "kill"
    problem(api.post(f"/workers/{worker}/stop", {"at_once": 1}), 400, "invalid")
    api.store.set_worker_state("default", worker, "lost")
    assert "is gone: it is lost" in problem(api.post(f"/workers/{worker}/drain"), 409, "conflict")["detail"]
    problem(api.get(f"/workers/{new_id().hex}"), 404, "not_found")
    problem(api.post("/workers/nobody/drain"), 404, "not_found")


def test_orchestrators(api: Api) -> None:
    assert api.get("/orchestrators").json == {"orchestrators": []}
    api.store.save_orchestrator(new_id().hex, "alive", "h", 1, "9")
    (found,) = api.get("/orchestrators").json["orchestrators"]
    assert (found["state"], found["host"], found["version"]) == ("alive", "h", "9")
