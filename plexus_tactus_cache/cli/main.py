"""The command line: `plexus-tactus-cache status | ls | sync | pull | retry | conflicts | resolve | run`.

Exit status: 0 when what was asked is done, 1 when it is not (something is still pending or parked after `sync`, the
store cannot be used), 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import datetime as dt
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel, ValidationError

from plexus_tactus_cache.cache import ProcedureCache
from plexus_tactus_cache.cli.run import add_command
from plexus_tactus_cache.document.models import CheckpointEntry
from plexus_tactus_cache.document.reports import CacheStatus, ProcedureStatus
from plexus_tactus_cache.errors import ProcedureNotFound, StorageError, StoreReadOnly
from plexus_tactus_cache.settings import default_directory
from plexus_tactus_cache.store.rows import DATABASE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        with options.open(options) as cache:
            return int(options.run(cache, options))
    except (StorageError, ValidationError) as error:
        print(f"plexus-tactus-cache: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("plexus-tactus-cache: interrupted; nothing is lost", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="plexus-tactus-cache", description="The local store of Tactus procedures, and what of it is in Plexus."
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--directory", type=Path, help="the store; default: PLEXUS_CACHE_DIR, else the one of PLEXUS_API_URL"
    )
    common.add_argument("--json", action="store_true", help="print JSON")
    common.set_defaults(open=_open)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    status = commands.add_parser("status", parents=[common], help="what is not in Plexus yet, why, and what is next")
    status.set_defaults(run=_status)
    ls = commands.add_parser("ls", parents=[common], help="the stored procedures, one a line")
    ls.set_defaults(run=_ls)
    sync = commands.add_parser(
        "sync", parents=[common], help="push what is pending now (needs PLEXUS_API_URL and _KEY)"
    )
    sync.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS", help="default: 30")
    sync.set_defaults(run=_sync)
    pull = commands.add_parser("pull", parents=[common], help="read one procedure from Plexus now and reconcile")
    pull.add_argument("procedure_id", metavar="ID")
    pull.set_defaults(run=_pull)
    retry = commands.add_parser("retry", parents=[common], help="push a parked procedure again")
    retry.add_argument("procedure_id", metavar="ID")
    retry.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS", help="default: 30")
    retry.set_defaults(run=_retry)
    conflicts = commands.add_parser("conflicts", parents=[common], help="the values that reconciling set aside")
    conflicts.add_argument("--resolved", action="store_true", help="those that were dealt with")
    conflicts.set_defaults(run=_conflicts)
    resolve = commands.add_parser("resolve", parents=[common], help="let one side of a conflict be the value")
    resolve.add_argument("conflict_id", metavar="CONFLICT")
    resolve.add_argument("--keep", choices=("local", "remote"), required=True)
    resolve.set_defaults(run=_resolve)
    add_command(commands, common)
    return parser


def _open(options: argparse.Namespace) -> ProcedureCache:
    """The cache asked for. Looking at a store that is not there must not make one."""
    from plexus_tactus_cache.cache import endpoint_of
    from plexus_tactus_cache.remote.client import PlexusClient

    directory = options.directory or default_directory(endpoint_of(PlexusClient.from_environment()))
    if not (directory / DATABASE).exists():
        raise StoreReadOnly(f"there is no store in {directory}: name one with --directory or PLEXUS_CACHE_DIR")
    # Only `sync` may push: looking must change nothing.
    return ProcedureCache(directory=directory, background=False)


def _status(cache: ProcedureCache, options: argparse.Namespace) -> int:
    status = cache.status()
    if options.json:
        _print_json(status)
    else:
        print("\n".join(_describe(status)))
        for procedure in cache.procedures():
            if procedure.parked_reason:
                print(f"  parked: {procedure.procedure_id}: {procedure.parked_reason}")
    return 0


def _describe(status: CacheStatus) -> list[str]:
    age = f", the oldest for {status.oldest_dirty_age:.0f} s" if status.oldest_dirty_age is not None else ""
    lines = [
        f"store:      {status.directory}",
        f"endpoint:   {status.endpoint or 'none yet'}",
        f"connection: {status.connection}" + (f" ({status.problem})" if status.problem else ""),
        f"procedures: {status.procedures}, {status.dirty} not in Plexus yet{age}, {status.parked} parked",
        f"conflicts:  {status.conflicts}" + (", see `plexus-tactus-cache conflicts`" if status.conflicts else ""),
        f"last push:  {_when(status.last_success)}",
    ]
    if status.next_attempt is not None:
        lines.append(f"next try:   {_when(max(status.next_attempt, time.time()))}, by the process that syncs")
    if status.store_problem:
        lines.append(f"problem:    {status.store_problem}")
    return lines


def _ls(cache: ProcedureCache, options: argparse.Namespace) -> int:
    procedures = cache.procedures()
    if options.json:
        _print_json(procedures)
        return 0
    rows = [("PROCEDURE", "ENTRIES", "STATUS", "PLEXUS")]
    rows += [(one.procedure_id, str(one.entries), one.status or "-", _place(one)) for one in procedures]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for name, entries, status, place in rows:
        print(f"{name:<{widths[0]}}  {entries:>{widths[1]}}  {status:<{widths[2]}}  {place}")
    return 0


def _place(procedure: ProcedureStatus) -> str:
    if procedure.parked_reason:
        return f"parked: {procedure.parked_reason}"
    if not procedure.dirty:
        return "up to date"
    return f"waiting ({procedure.last_error})" if procedure.last_error else "waiting"


def _sync(cache: ProcedureCache, options: argparse.Namespace) -> int:
    done = cache.flush(timeout=options.timeout)
    report = cache.sync(timeout=options.timeout) if not done else None
    status = cache.status()
    done = done and not status.parked
    if options.json:
        _print_json(status)
    elif done:
        print("everything is in Plexus")
    else:
        for error in report.errors if report else ():
            print(f"error: {error}", file=sys.stderr)
        print("\n".join(_describe(status)))
        for procedure in cache.procedures():
            if procedure.dirty or procedure.parked_reason:
                print(f"  {procedure.procedure_id}: {_place(procedure)}")
    return 0 if done else 1


def _pull(cache: ProcedureCache, options: argparse.Namespace) -> int:
    cache.pull(options.procedure_id)
    return _tell(cache, options)


def _retry(cache: ProcedureCache, options: argparse.Namespace) -> int:
    cache.retry(options.procedure_id)
    cache.flush(timeout=options.timeout)
    return _tell(cache, options)


def _tell(cache: ProcedureCache, options: argparse.Namespace) -> int:
    """Where the procedure that was asked for stands now."""
    found = next((one for one in cache.procedures() if one.procedure_id == options.procedure_id), None)
    if found is None:
        raise ProcedureNotFound(options.procedure_id)
    if options.json:
        _print_json(found)
    else:
        print(f"{found.procedure_id}: {_place(found)}")
    return 1 if found.parked_reason or (found.dirty and options.run is _retry) else 0


def _conflicts(cache: ProcedureCache, options: argparse.Namespace) -> int:
    found = cache.conflicts(resolved=options.resolved)
    if options.json:
        _print_json(found)
        return 0
    for one in found:
        where = one.part if one.key is None else f"{one.part} {one.key!r}"
        where = f"{one.part} from position {one.key}" if one.part == "execution_log" else where
        print(f"{one.id}  {one.procedure_id}  {where}  {_when(one.at)}")
        print(f"    {one.reason}; " + (f"{one.kept} is kept" if one.kept else "undecided"))
        for side in ("local", "remote", "base"):
            if side not in one.absent:
                print(f"    {side + ':':<8}{_short(getattr(one, side))}")
    if not found:
        print("no conflicts")
    return 0


def _short(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], CheckpointEntry):
        value = [entry.result for entry in value]
    return textwrap.shorten(repr(value), 100, placeholder=" ...")


def _resolve(cache: ProcedureCache, options: argparse.Namespace) -> int:
    cache.resolve(options.conflict_id, options.keep)
    if options.json:
        _print_json([one for one in cache.conflicts(resolved=True) if one.id == options.conflict_id])
    else:
        print(f"conflict {options.conflict_id}: {options.keep} is the value now; the next sync brings it to Plexus")
    return 0


def _when(moment: float | None) -> str:
    if moment is None:
        return "never"
    return dt.datetime.fromtimestamp(moment).astimezone().isoformat(sep=" ", timespec="seconds")


def _print_json(found: BaseModel | Sequence[BaseModel]) -> None:
    plain = found.model_dump() if isinstance(found, BaseModel) else [one.model_dump() for one in found]
    # values of conflicts can be anything; here they are to be looked at
    print(orjson.dumps(plain, default=repr, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode())
