"""The program that the power is cut from: it writes by the public API, and says before and after each write which.

    python writer.py DIRECTORY DURABILITY STEPS

Preloaded with the shim, what it says is in the record, in order with what it did. It ends like one that is killed.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import sys
import threading
from collections.abc import Iterator

from helpers import fast

from plexus_tactus_cache import PlexusStorageAdapter, ProcedureCache
from power.history import Step, do, procedure_of, steps

LANES = (("a-1", "a-2", "shared/a"), ("b-1", "b-2", "shared/b"))  # those of each thread
LIVES = (0.02, 0.5, 0.48)  # shares of the steps, each in a cache that is opened and closed; in the last, one a thread

mark = ctypes.CDLL(None).power_mark


def work(storages: dict[str, PlexusStorageAdapter], todo: dict[str, Iterator[Step]], count: int, seed: str) -> None:
    """Take so many steps, in lanes by chance."""
    dice = random.Random(seed)
    for _ in range(count):
        lane = dice.choice(sorted(todo))
        step = next(todo[lane])
        mark(json.dumps({"begun": lane, "act": step.act, "arguments": step.arguments}).encode())
        do(storages[lane], lane, step)
        mark(json.dumps({"acknowledged": lane}).encode())


def main(directory: str, durability: str, count: int) -> None:
    """Live `LIVES`."""
    failed: list[object] = []
    threading.excepthook = failed.append
    todo = [{lane: steps(lane, random.Random(lane)) for lane in lanes} for lanes in LANES]
    for life, share in enumerate(LIVES):
        last = life == len(LIVES) - 1
        caches = [ProcedureCache(None, directory, fast(durability=durability)) for _ in range(2 if last else 1)]
        threads = []
        for number, mine in enumerate(todo):
            storages = {lane: caches[number % len(caches)].storage(procedure_of(lane)) for lane in mine}
            arguments = storages, mine, int(count * share / len(todo)), f"{life} {number}"
            threads.append(threading.Thread(target=work, args=arguments))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise SystemExit(str(failed))
        if not last:
            caches[0].close()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
