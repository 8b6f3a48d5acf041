"""A Python session that runs what it is sent, block by block, in one namespace. A line of JSON in, a line of JSON out."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import sys
import traceback


def main() -> None:
    space: dict[str, object] = {"__name__": "__main__"}
    for line in sys.stdin:
        job = json.loads(line)
        printed, error = io.StringIO(), ""
        with contextlib.redirect_stdout(printed):
            try:
                for name in job["reload"]:
                    if name in sys.modules:
                        importlib.reload(sys.modules[name])
                exec(compile(job["code"], job["where"], "exec"), space)
            except Exception:
                error = traceback.format_exc()
        names = {name: value if isinstance(value, str) else getattr(value, "id", None) for name, value in space.items()}
        answer = {
            "printed": printed.getvalue(),
            "error": error,
            "names": {k: v for k, v in names.items() if isinstance(v, str)},
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
