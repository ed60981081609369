"""`plexus-tactus-cache forget | gc`: what need not be kept here."""

from __future__ import annotations

import argparse
from typing import Any

from plexus_tactus_cache.cache import ProcedureCache
from plexus_tactus_cache.cli.common import print_json, say, size

_DAY = 86_400.0


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add `forget` and `gc` to the command line."""
    forget = commands.add_parser("forget", parents=[common], help="delete a procedure here; Plexus's record stays")
    forget.add_argument("procedure_id", metavar="ID")
    forget.add_argument("--discard", action="store_true", help="also what Plexus does not have: it is gone then")
    forget.set_defaults(run=_forget)
    gc = commands.add_parser(
        "gc", parents=[common], help="forget old procedures that are all in Plexus, and shrink the store"
    )
    gc.add_argument(
        "--older-than",
        type=float,
        metavar="DAYS",
        help="since they were last written; default: PLEXUS_CACHE_RETENTION (seconds), else none is forgotten",
    )
    gc.set_defaults(run=_gc)


def _forget(cache: ProcedureCache, options: argparse.Namespace) -> int:
    cache.forget(options.procedure_id, discard=options.discard)
    if not options.json:
        say(f"{options.procedure_id} is forgotten here")
    return 0


def _gc(cache: ProcedureCache, options: argparse.Namespace) -> int:
    report = cache.gc(None if options.older_than is None else options.older_than * _DAY)
    if options.json:
        print_json(report)
    else:
        say(f"{len(report.forgotten)} procedures are forgotten here; the store takes {size(report.store_bytes)}")
    return 0
