"""An app without tasks that loads the classes of the fuzzed payloads."""

import tests.test_codec  # noqa: F401
from aiki import Aiki

app = Aiki("fuzzed")
