"""`plexus-tactus-cache conflicts | resolve`: the values that reconciling set aside."""

from __future__ import annotations

import argparse
import textwrap
from typing import Any

from plexus_tactus_cache.cache import ProcedureCache
from plexus_tactus_cache.cli.common import look_at_store, print_json, say, when
from plexus_tactus_cache.document.models import CheckpointEntry


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add `conflicts` and `resolve` to the command line."""
    conflicts = commands.add_parser("conflicts", parents=[common], help="the values that reconciling set aside")
    conflicts.add_argument("--resolved", action="store_true", help="those that were dealt with")
    conflicts.set_defaults(run=_conflicts, open=look_at_store)
    resolve = commands.add_parser("resolve", parents=[common], help="let one side of a conflict be the value")
    resolve.add_argument("conflict_id", metavar="CONFLICT")
    resolve.add_argument("--keep", choices=("local", "remote"), required=True)
    resolve.set_defaults(run=_resolve)


def _conflicts(cache: ProcedureCache, options: argparse.Namespace) -> int:
    found = cache.conflicts(resolved=options.resolved)
    if options.json:
        print_json(found)
        return 0
    for one in found:
        where = one.part if one.key is None else f"{one.part} {one.key!r}"
        where = f"{one.part} from position {one.key}" if one.part == "execution_log" else where
        say(f"{one.id}  {one.procedure_id}  {where}  {when(one.at)}")
        say(f"    {one.reason}; " + (f"{one.kept} is kept" if one.kept else "undecided"))
        for side in ("local", "remote", "base"):
            if side not in one.absent:
                say(f"    {side + ':':<8}{_short(getattr(one, side))}")
    if not found:
        say("no conflicts")
    return 0


def _short(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], CheckpointEntry):
        value = [entry.result for entry in value]
    return textwrap.shorten(repr(value), 100, placeholder=" ...")


def _resolve(cache: ProcedureCache, options: argparse.Namespace) -> int:
    cache.resolve(options.conflict_id, options.keep)
    if options.json:
        print_json([one for one in cache.conflicts(resolved=True) if one.id == options.conflict_id])
    else:
        say(f"conflict {options.conflict_id}: {options.keep} is the value now; the next sync brings it to Plexus")
    return 0
