"""`python -m aiki` is `aiki`."""

from aiki.cli.main import main

main()
