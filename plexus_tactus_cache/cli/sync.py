"""`plexus-tactus-cache sync | pull | retry`: exchanges with Plexus now."""

from __future__ import annotations

import argparse
from typing import Any

from plexus_tactus_cache.cache import ProcedureCache
from plexus_tactus_cache.cli.common import complain, print_json, say
from plexus_tactus_cache.cli.status import describe, standing
from plexus_tactus_cache.errors import ProcedureNotFound


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add `sync`, `pull` and `retry` to the command line."""
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


def _sync(cache: ProcedureCache, options: argparse.Namespace) -> int:
    done = cache.flush(timeout=options.timeout)
    report = cache.sync(timeout=options.timeout) if not done else None
    status = cache.status()
    done = done and not status.parked
    if options.json:
        print_json(status)
    elif done:
        say("everything is in Plexus")
    else:
        for error in report.errors if report else ():
            complain(f"error: {error}")
        say(*describe(status))
        for procedure in cache.procedures():
            if procedure.dirty or procedure.parked_reason:
                say(f"  {procedure.procedure_id}: {standing(procedure)}")
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
        print_json(found)
    else:
        say(f"{found.procedure_id}: {standing(found)}")
    return 1 if found.parked_reason or (found.dirty and options.run is _retry) else 0
