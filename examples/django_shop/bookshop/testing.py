"""The test runner: what tests enqueue goes to an Aiki of their own, two SQLite files in a directory that is removed."""

import os
import tempfile
from typing import Any

from django.test.runner import DiscoverRunner

from bookshop.background import app


class Runner(DiscoverRunner):
    def setup_test_environment(self, **kwargs: Any) -> None:
        super().setup_test_environment(**kwargs)
        self._directory = tempfile.TemporaryDirectory(prefix="bookshop-")
        for name in [name for name in os.environ if name.startswith("AIKI_")]:
            del os.environ[name]
        os.environ["AIKI_DATABASE_URL"] = f"sqlite:///{self._directory.name}/aiki.db"
        os.environ["AIKI_BROKER_URL"] = f"sqlite:///{self._directory.name}/broker.db"

    def teardown_test_environment(self, **kwargs: Any) -> None:
        app.close()
        self._directory.cleanup()
        super().teardown_test_environment(**kwargs)
