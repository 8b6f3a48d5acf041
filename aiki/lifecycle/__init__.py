"""The life of a run, without I/O: what a report, an operator, a time or a parent's order does to its locked row.

Storage locks the rows, calls a decision of this package with them and with `Effects` to fill, and writes what it has changed.
"""
