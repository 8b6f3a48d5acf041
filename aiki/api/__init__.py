"""The server's HTTP API: Flask over the embedded client, served by gunicorn.

`app.py` puts it together and lists the modules with endpoints, one for each noun. `schemas.py` has what endpoints take,
`answers.py` what they answer, `problems.py` the errors. `guard.py` authenticates, `access.py` authorizes, `server.py` is the
process. The JSON is that of `aiki.client.wire`, which the SDK speaks, too.
"""

from aiki.api.app import ApiOptions, create_app

__all__ = ["ApiOptions", "create_app"]
