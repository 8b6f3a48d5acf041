"""Programs of ours as process 1 of a container: nobody, a root that can only be read, no /tmp.

Where this machine lets nobody make namespaces, they run with every attempt to write a file refused by the interpreter, and not
as process 1; `how` says which of the two it is.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.waiting import wait_until

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NOBODY = 65534
_NAMESPACES = ("unshare", "--pid", "--fork", "--mount")
_SYSTEM = ("/usr", "/etc")


@functools.cache
def namespaces() -> bool:
    """Whether there are namespaces to be had."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "setpriv", "nsenter", "chroot"))):
        return False
    test = [*_NAMESPACES, "sh", "-c", "mount --make-rprivate / && mount -t tmpfs none /mnt && mount -t proc proc /proc"]
    return subprocess.run(test, capture_output=True, check=False).returncode == 0


class Box:
    """A program in its container.

    :param arguments: of `python`.
    :param app: the directory with the application, which is the working directory, too.
    :param writable: a directory that it may write, and that is the working directory; none by default.
    """

    def __init__(
        self, arguments: Sequence[str], env: dict[str, str], folder: Path, app: Path, writable: Path | None = None
    ) -> None:
        self.arguments = list(arguments)
        self.how = "namespaces" if namespaces() else "a hook of the interpreter"
        folder.joinpath("root").mkdir(parents=True)
        self.log_path = folder / "log"
        self._log = self.log_path.open("ab")
        paths = [str(ROOT), "/app" if namespaces() else str(app)]
        self._env = {"PATH": "/usr/sbin:/usr/bin", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, *arguments]
        if namespaces():
            if writable is not None:
                os.chown(writable, NOBODY, NOBODY)
            # Directories are given from the outside in: what lies in another one is seen with it.
            seen = sorted({*_SYSTEM, sys.base_prefix, sys.prefix, str(ROOT)})
            inside = ["sh", str(HERE / "inside.sh"), str(folder / "root"), str(app), str(writable or "-")]
            command = [*_NAMESPACES, *inside, *seen, "--", *command]
        else:
            paths.insert(0, str(HERE / "hook"))
            self._env["CONFINED_WRITABLE"] = str(writable or "")
        self._env |= {"PYTHONPATH": ":".join(paths), **env}
        self.process = subprocess.Popen(
            command, env=self._env, cwd=writable or app, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log
        )

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """The program's process id, as this machine has it."""
        if not namespaces():
            return self.process.pid
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        try:
            return int(wait_until(lambda: children.read_text().split(), 30, "the program")[0])
        except (AssertionError, FileNotFoundError) as error:
            raise AssertionError(f"it has ended: {self.log}") from error

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `python ARGUMENT...` beside the program, in the same container, as the same user: as `docker exec` does."""
        command = [sys.executable, *arguments]
        if namespaces():
            enter = ["nsenter", "--target", str(self.pid), "--pid", "--mount", "--root", "--wd"]
            enter += ["--setuid", str(NOBODY), "--setgid", str(NOBODY), "--"]
            command = [*enter, *command]
        return subprocess.run(command, env=self._env, capture_output=True, text=True, timeout=60, check=False)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def stop(self, timeout: float = 60.0) -> int:
        """TERM, and the exit code."""
        self.signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def close(self) -> None:
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGKILL)  # with process 1 all others of its namespace end
            self.process.wait(60)
        self._log.close()
