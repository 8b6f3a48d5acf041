"""Another app: it knows none of the shop's tasks."""

from aiki import Aiki

app = Aiki()


@app.task
def unrelated() -> None:
    """Never called."""
