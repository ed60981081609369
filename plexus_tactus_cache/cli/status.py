"""`plexus-tactus-cache status | ls`: what is in the store, and what of it is not in Plexus yet."""

from __future__ import annotations

import argparse
import time
from typing import Any

from plexus_tactus_cache.cache import ProcedureCache
from plexus_tactus_cache.cli.common import look_at_store, print_json, say, size, when
from plexus_tactus_cache.document.reports import CacheStatus, ProcedureStatus
from plexus_tactus_cache.printable import printable


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add `status` and `ls` to the command line."""
    status = commands.add_parser("status", parents=[common], help="what is not in Plexus yet, why, and what is next")
    status.set_defaults(run=_status, open=look_at_store)
    ls = commands.add_parser("ls", parents=[common], help="the stored procedures, one a line")
    ls.set_defaults(run=_ls, open=look_at_store)


def _status(cache: ProcedureCache, options: argparse.Namespace) -> int:
    status = cache.status()
    if options.json:
        print_json(status)
    else:
        say(*describe(status))
        for procedure in cache.procedures():
            if procedure.parked_reason:
                say(f"  parked: {procedure.procedure_id}: {procedure.parked_reason}")
    return 0


def describe(status: CacheStatus) -> list[str]:
    """The status of a cache, as lines for people."""
    age = f", the oldest for {status.oldest_dirty_age:.0f} s" if status.oldest_dirty_age is not None else ""
    lines = [
        f"store:      {status.directory}, {size(status.store_bytes)}",
        f"endpoint:   {status.endpoint or 'none yet'}",
        f"connection: {status.connection}" + (f" ({status.problem})" if status.problem else ""),
        f"procedures: {status.procedures}, {status.dirty} not in Plexus yet{age}, {status.parked} parked",
        f"conflicts:  {status.conflicts}" + (", see `plexus-tactus-cache conflicts`" if status.conflicts else ""),
        f"last push:  {when(status.last_success)}",
    ]
    if status.next_attempt is not None:
        lines.append(f"next try:   {when(max(status.next_attempt, time.time()))}, by the process that syncs")
    if status.writer is not None:
        lines.append(f"writing:    process {status.writer}")
    if status.store_problem:
        lines.append(f"problem:    {status.store_problem}")
    return lines


def _ls(cache: ProcedureCache, options: argparse.Namespace) -> int:
    procedures = cache.procedures()
    if options.json:
        print_json(procedures)
        return 0
    rows = [("PROCEDURE", "ENTRIES", "STATUS", "PLEXUS")]
    rows += [
        (printable(one.procedure_id), str(one.entries), printable(one.status or "-"), standing(one))
        for one in procedures
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for name, entries, status, place in rows:
        say(f"{name:<{widths[0]}}  {entries:>{widths[1]}}  {status:<{widths[2]}}  {place}")
    return 0


def standing(procedure: ProcedureStatus) -> str:
    """Where a procedure stands with Plexus, for people."""
    if procedure.parked_reason:
        return f"parked: {procedure.parked_reason}"
    if not procedure.dirty:
        return "up to date"
    return f"waiting ({procedure.last_error})" if procedure.last_error else "waiting"
