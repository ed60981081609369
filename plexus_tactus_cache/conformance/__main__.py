"""`python -m plexus_tactus_cache.conformance`: how Tactus's own backends and ours do, as a table.

`--why` says besides what went wrong. Exit status 0 if ours passes everything.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tactus.adapters.file_storage import FileStorage
from tactus.adapters.memory import MemoryStorage

from plexus_tactus_cache import OFFLINE, ProcedureCache
from plexus_tactus_cache.conformance import CHECKS, Factory, run_checks


@contextmanager
def memory(directory: Path) -> Iterator[Any]:
    """Tactus's MemoryStorage."""
    yield MemoryStorage()


@contextmanager
def file(directory: Path) -> Iterator[Any]:
    """Tactus's FileStorage."""
    yield FileStorage(str(directory))


@contextmanager
def cache(directory: Path) -> Iterator[Any]:
    """A ProcedureCache without Plexus."""
    with ProcedureCache(OFFLINE, directory, background=False) as opened:
        yield opened.storage("p")


BACKENDS: dict[str, Factory] = {"Memory": memory, "File": file, "this": cache}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m plexus_tactus_cache.conformance", description=__doc__)
    parser.add_argument("--why", action="store_true", help="say what went wrong")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)  # failing is what some of them are here for
    outcomes = {name: run_checks(factory) for name, factory in BACKENDS.items()}
    width = max(len(str(check)) for check in CHECKS)
    print(f"{'':<{width}}  {'  '.join(f'{name:<6}' for name in outcomes)}".rstrip())
    for number, check in enumerate(CHECKS):
        row = [found[number].problem for found in outcomes.values()]
        marks = "  ".join(f"{'FAILS' if problem else 'ok':<6}" for problem in row)
        print(f"{check!s:<{width}}  {marks}".rstrip())
        if options.why:
            for name, problem in zip(outcomes, row, strict=True):
                if problem:
                    print(f"    {name}: {problem}")
    passed = {name: sum(one.problem is None for one in found) for name, found in outcomes.items()}
    print(f"{f'of {len(CHECKS)} checks':<{width}}  {'  '.join(f'{count:<6}' for count in passed.values())}".rstrip())
    return 0 if passed["this"] == len(CHECKS) else 1


if __name__ == "__main__":
    sys.exit(main())
