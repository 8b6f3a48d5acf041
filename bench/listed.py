"""The app whose runs go through while `bench.lists` asks for pages."""

from aiki import Aiki

app = Aiki("bench")


@app.task
def tick(number: int, text: str) -> int:
    return number + len(text)
