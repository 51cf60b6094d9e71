"""A process that keeps one core busy while it is told to.

`python -m objectcache.bench.store.busy CORE`: computes from each line of standard input to the next, by turns.
"""

from __future__ import annotations

import os
import select
import sys

from objectcache.bench.store.compute import Compute


def main() -> None:
    os.sched_setaffinity(0, {int(sys.argv[1])})
    compute = Compute(0.25)
    print("{}", flush=True)
    while sys.stdin.readline():
        print("{}", flush=True)
        while not select.select([sys.stdin], [], [], 0)[0]:
            compute.quantum()
        if not sys.stdin.readline():
            return
        print("{}", flush=True)


if __name__ == "__main__":
    main()
