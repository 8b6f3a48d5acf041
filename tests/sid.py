"""A Debian of newer packages in a folder of its own: MySQL 9, RabbitMQ 4 and Python 3.14 beside whatever the system has.

As root on Debian, `need` makes it with debootstrap, once, from the mirror that the system's own apt uses, and keeps it in
`$XDG_CACHE_HOME/aiki-tests` (or `~/.cache/aiki-tests`). `command` gives the command line that runs a program in it. Such a
program is a child like any other, under the process id that it was started with, and sees the folders that it is shown
under their own names. What it needs mounted is mounted in a namespace of its own, which ends with it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

PACKAGES = ("mysql-server-core", "rabbitmq-server", "python3", "python3-venv")
VERSION = 1
"""To be raised with a change of what is put into the folder: those of other versions are removed."""

# `exec` all the way: the process that was started becomes the program, so that a signal to it meets the program itself.
_ENTER = """set -e
root=$1; shift
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
while [ "$1" != -- ]; do mkdir -p "$root$1"; mount --bind "$1" "$root$1"; shift; done
shift
exec chroot "$root" "$@"
"""


class NoRoot(RuntimeError):
    """The folder is not there and cannot be made here."""


def possible() -> bool:
    """Whether this machine can make and enter such a folder."""
    return os.geteuid() == 0 and all(shutil.which(name) for name in ("apt-get", "unshare", "chroot", "mount"))


def need() -> Path:
    """The folder, made now if need be, which takes a minute or two; raises `NoRoot`."""
    root = _home() / f"sid-{VERSION}"
    if not root.exists():
        root.parent.mkdir(parents=True, exist_ok=True)
        # Two test runs at once on a fresh machine: the second waits, and then finds what the first has made.
        with open(root.parent / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not root.exists():
                _make(root)
    return root


def command(arguments: Sequence[str], see: Sequence[Path] = ()) -> list[str]:
    """The command line that runs `arguments` in the folder, made first if need be.

    :param see: folders of this system that the program sees under their own names. That of temporary files always is one.
    """
    seen = [str(folder.resolve()) for folder in (Path(tempfile.gettempdir()), *see)]
    return ["unshare", "--mount", "/bin/sh", "-c", _ENTER, "enter", str(need()), *seen, "--", *arguments]


def _home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aiki-tests"


def _make(root: Path) -> None:
    if not possible():
        raise NoRoot("a Debian of newer packages can only be made as root on Debian, with apt-get, unshare and chroot")
    begun = time.monotonic()
    for left in root.parent.glob("sid-*"):  # older versions, and what was broken off
        shutil.rmtree(left)
    if not shutil.which("debootstrap", path="/usr/sbin:/sbin:/usr/bin"):
        # Here and not above: that module may import this one.
        from tests.provision import apt_install

        apt_install(["debootstrap"], lambda: bool(shutil.which("debootstrap", path="/usr/sbin:/sbin:/usr/bin")))
    _say(f"making a Debian sid with {', '.join(PACKAGES)} in {root} (once, a minute or two)")
    part = root.with_name(f"{root.name}.part")
    _run(["debootstrap", "--variant=minbase", "--include=ca-certificates", "sid", str(part), _mirror()])
    _say(f"its base is there after {time.monotonic() - begun:.0f} s; installing the servers")
    (part / "etc/apt/apt.conf.d/90surroundings").write_text(_apt_settings())
    services = part / "usr/sbin/policy-rc.d"
    services.write_text("#!/bin/sh\nexit 101\n")  # nothing is started by being installed
    services.chmod(0o755)
    install = f"apt-get -qq update && apt-get -qq install -y --no-install-recommends {' '.join(PACKAGES)} && apt-get clean"
    _run(
        ["unshare", "--mount", "/bin/sh", "-c", _ENTER, "enter", str(part), "--", "/bin/sh", "-c", install],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"},
    )
    shutil.rmtree(part / "var/lib/apt/lists", ignore_errors=True)
    part.rename(root)
    _say(f"the Debian sid is ready after {time.monotonic() - begun:.0f} s")


def _mirror() -> str:
    """Where the system's own apt takes Debian from."""
    told = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI) $(COMPONENT)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = [line.split() for line in told.splitlines()]
    for origin, uri, *_ in (words for words in found if len(words) == 3):
        if origin == "Debian" and "security" not in uri:
            return uri
    if not found:
        subprocess.run(["apt-get", "-qq", "update"], capture_output=True, check=False)
    raise NoRoot("apt knows no mirror of Debian here; `apt-get indextargets` tells what it knows (after `apt-get update`)")


def _apt_settings() -> str:
    """The system's apt settings about proxies and the age of lists: they hold in the folder too."""
    told = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    about = ("Acquire::http::", "Acquire::https::", "Acquire::Check-", "Acquire::Retries")
    return "".join(f"{line}\n" for line in told.splitlines() if line.startswith(about))


def _run(arguments: Sequence[str], env: dict[str, str] | None = None) -> None:
    proxy = subprocess.run(
        ["apt-config", "dump", "--format", "%v", "Acquire::http::Proxy"], capture_output=True, text=True, check=False
    ).stdout
    environment = {**(env or os.environ), **({"http_proxy": proxy} if proxy else {})}
    done = subprocess.run(
        arguments, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode:
        raise NoRoot(f"{arguments[0]} failed ({done.returncode}):\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def _say(text: str) -> None:
    print(f"services: {text}", file=sys.stderr, flush=True)
