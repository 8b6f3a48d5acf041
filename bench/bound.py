"""`python -m bench.bound PID COMMAND...`: become COMMAND, which dies with process PID, however that ends."""

import os
import sys

from aiki.worker.process import die_with_parent

if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
