"""The commands. Each is a module of its own and imported only when it is asked for (`main.py`)."""
