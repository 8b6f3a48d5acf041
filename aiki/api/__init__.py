"""The server's HTTP API: Flask over the embedded client, served by gunicorn.

`app.py` puts it together; `runs.py` and `roster.py` hold the endpoints, `schemas.py` what they take, `problems.py` how errors
are told, `guard.py` who may ask, `server.py` the process. The JSON itself is that of `aiki.client.wire`, which the SDK
speaks too.
"""

from aiki.api.app import ApiOptions, create_app

__all__ = ["ApiOptions", "create_app"]
