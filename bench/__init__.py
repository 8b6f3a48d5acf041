"""Measures Aiki and, where they are installed, Celery and Dramatiq on the same servers: `python -m bench`; see README.md."""
