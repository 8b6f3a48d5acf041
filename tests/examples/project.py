"""A copy of one of the projects in `examples/`, and its programs as a user starts them."""

from __future__ import annotations

import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from tests import services
from tests.cli.process import PYTHON, ROOT, Process, environment
from tests.waiting import wait_until

PROGRAMS = {"python": [], "aiki": ["-m", "aiki"], "aiki-worker": ["-m", "aiki", "worker"], "flask": ["-m", "flask"]}
"""What users call, as arguments of Python."""


class Project:
    """A copy that a test may change. Use as a context: at the end all that was started is killed.

    :param name: of the folder in `examples/`.
    :param env: for all that is started.
    """

    def __init__(self, name: str, place: Path, **env: str) -> None:
        self.folder = place / name
        ignored = shutil.ignore_patterns("__pycache__", ".aiki", "*.sqlite3", ".venv", ".pytest_cache")
        shutil.copytree(ROOT / "examples" / name, self.folder, ignore=ignored)
        self.env = {"PYTHONPATH": f"{ROOT}:{self.folder}", **env}
        self.port = services.free_port()
        self._started: list[Process] = []

    def run(self, *words: str, **more: str) -> str:
        """Run a command to its end; what it prints. It must succeed."""
        program = [PYTHON, *PROGRAMS[words[0]]] if words[0] in PROGRAMS else [words[0]]
        done = subprocess.run(
            [*program, *words[1:]],
            cwd=self.folder,
            env=environment(**{**self.env, **more}),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self, *words: str, **more: str) -> Process:
        """Start a command that goes on."""
        self._started.append(Process([*PROGRAMS[words[0]], *words[1:]], self.folder, **{**self.env, **more}))
        return self._started[-1]

    def wait_for_site(self) -> None:
        """Wait until the site answers."""

        def answers() -> bool:
            try:
                return self.get("/nothing/")[0] == 404
            except OSError:
                return False

        wait_until(answers, 60, "the site to answer")

    def get(self, path: str, **form: str) -> tuple[int, str]:
        """Status and body of a page, asked for with GET, or with POST if there is a form."""
        data = urllib.parse.urlencode(form).encode() if form else None
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", data, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    @property
    def lines(self) -> str:
        """All that was printed by what was started."""
        return "\n".join(process.text for process in self._started)

    def __enter__(self) -> Project:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            error.add_note(self.lines)
        for process in reversed(self._started):
            process.__exit__()
