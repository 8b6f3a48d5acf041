"""Where the servers come from that only the incumbents need: what is installed, otherwise apt (as root) and npm."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from bench.config import ROOT
from tests.provision import NoServer, need_postgres, postgres, program, say

CACHE: Final = ROOT / "bench" / ".cache"
"""What was downloaded; `make clean` removes it."""
_RESTATE: Final = ROOT / "bench" / "restate"


def restate() -> Path | None:
    """Restate's server: the one on the PATH, or the one that was installed here."""
    installed = sorted(_restate_folder().glob("node_modules/@restatedev/restate-server-*/bin/restate-server"))
    return program("restate-server") or (installed[0] if installed else None)


def need_restate() -> Path:
    """Restate's server, installed now if need be; raises `NoServer`."""
    found = restate() or (_npm() and restate())
    if not found:
        raise NoServer("there is no restate-server on the PATH, and no npm to install it with")
    return found


def obtainable(product: str) -> bool:
    """Whether the server that a product needs is there or may be installed. Others than these two bring none."""
    as_root = os.geteuid() == 0 and shutil.which("apt-get") is not None
    if product == "dbos":
        return postgres() is not None or as_root
    if product == "restate":
        return restate() is not None or shutil.which("npm") is not None
    return True


def provide(product: str) -> None:
    """Install the server that a product needs; raises `NoServer`."""
    needs = {"dbos": need_postgres, "restate": need_restate}
    if product in needs:
        needs[product]()


def _restate_folder() -> Path:
    """One folder a lock file, so that another release is installed anew."""
    return CACHE / f"restate-{hashlib.sha256((_RESTATE / 'package-lock.json').read_bytes()).hexdigest()[:12]}"


def _npm() -> bool:
    """Install what bench/restate/package-lock.json names, by hash and without its scripts; whether that could be tried."""
    if not shutil.which("npm"):
        return False
    CACHE.mkdir(exist_ok=True)
    with open(CACHE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if restate():
            return True
        say("installing restate-server with npm (once; 81 MB)")
        # Renamed when it is whole: an installation that is broken off is never taken for one.
        with tempfile.TemporaryDirectory(dir=CACHE) as name:
            folder = Path(name) / "restate"
            shutil.copytree(_RESTATE, folder)
            done = subprocess.run(
                ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise NoServer(f"npm ci failed ({done.returncode}):\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
            folder.rename(_restate_folder())
    return True
