"""Replay seeds: `python -m tests.simulation SEED …` prints each one's trace."""

from __future__ import annotations

import argparse
import sys
import time
import traceback

from tests.simulation.fate import simulate


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seeds", type=int, nargs="+")
    parser.add_argument("--disorder", type=float, default=0.0, help="share of reports that overtake others of their partition")
    parser.add_argument("--stopping", action="store_true", help="stop processes for longer than their lease, often")
    parser.add_argument("-q", "--quiet", action="store_true", help="no trace")
    parser.add_argument("--to", type=int, help="all seeds from the first to this one, until one fails")
    options = parser.parse_args()
    seeds = range(options.seeds[0], options.to) if options.to else options.seeds
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a trace shows odd texts
    began = time.monotonic()
    for seed in seeds:
        try:
            digest = simulate(seed, None if options.quiet else print, disorder=options.disorder, stopping=options.stopping)
        except Exception:
            traceback.print_exc()
            print(f"seed {seed} failed, after {time.monotonic() - began:.1f} s")
            return 1
        if not options.quiet:
            print(f"seed {seed}: all is well, {digest:08x}")
    print(f"{len(seeds)} seeds in {time.monotonic() - began:.1f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
