"""`plexus-tactus-cache run`: runs a procedure on the cache, online or offline; goes on with one that was interrupted.

Exit status: 0 when the procedure is done, 1 when it failed or could not begin, 3 when it waits (for a person, for
other procedures, for a time), 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import uuid
from pathlib import Path
from typing import Any

import orjson

from plexus_tactus_cache.adapter import PlexusStorageAdapter
from plexus_tactus_cache.cache import ProcedureCache
from plexus_tactus_cache.cli.common import complain, print_json
from plexus_tactus_cache.document.lua import describe
from plexus_tactus_cache.errors import StorageError
from plexus_tactus_cache.settings import CacheSettings

INPUT = "run_input"  # in lua_state: the parameters of the last run, which a resume needs again
_WAITS = 3
_INTERRUPTED = 130


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add `run` to the command line."""
    parser = commands.add_parser(
        "run", parents=[common], help="run a procedure on the cache; --resume goes on after the last checkpoint"
    )
    parser.add_argument("file", type=Path, metavar="FILE.tac")
    parser.add_argument(
        "--param", action="append", default=[], type=_parameter, metavar="KEY=VALUE", help="VALUE: JSON, else text"
    )
    parser.add_argument("--procedure-id", metavar="ID", help="default: a new procedure")
    parser.add_argument("--account-id", metavar="ID", help="the account of a new procedure")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--run-id", metavar="ID", help="goes on with the run of that id, or begins it")
    which.add_argument(
        "--resume", action="store_true", help="go on with the procedure's last run; needs --procedure-id"
    )
    parser.set_defaults(run=run, open=open_cache)


def _parameter(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        return key, orjson.loads(value)
    except orjson.JSONDecodeError:
        return key, value


def open_cache(options: argparse.Namespace) -> ProcedureCache:
    """The cache to run on, which pushes in the background. A resume never takes an unknown procedure for a new one."""
    settings = CacheSettings(on_unreachable="raise") if options.resume else CacheSettings()
    return ProcedureCache(directory=options.directory, settings=settings)


def run(cache: ProcedureCache, options: argparse.Namespace) -> int:
    """Run the procedure; returns the exit status. Raises StorageError if it cannot begin."""
    if options.resume and options.procedure_id is None:
        raise StorageError("--resume needs --procedure-id: which procedure is to go on?")
    try:
        from plexus_tactus_cache import tactus
        from plexus_tactus_cache.cli.progress import Progress
    except ImportError as error:
        raise StorageError(str(error)) from error

    logging.getLogger("tactus").setLevel(logging.CRITICAL)  # what goes wrong is in the outcome
    source = _read(options.file)
    procedure_id = options.procedure_id or _create(cache, options)
    storage = cache.storage(procedure_id)
    metadata = storage.load_procedure_metadata(procedure_id)
    run_id: str | None = tactus.last_run(metadata) if options.resume else options.run_id or uuid.uuid4().hex
    if run_id is None:
        raise StorageError(f"procedure {procedure_id!r} has no run to go on with; run it without --resume")
    parameters = _parameters(storage, run_id, dict(options.param))
    stored = sum(tactus.belongs_to(entry, run_id) for entry in metadata.execution_log)

    again = f"plexus-tactus-cache run {options.file} --procedure-id {procedure_id} --resume"
    with Progress(procedure_id, run_id, stored, quiet=options.json) as progress:
        storage.update_procedure_status(procedure_id, "RUNNING")
        runtime = tactus.DurableRuntime(
            procedure_id,
            storage_backend=storage,
            run_id=run_id,
            source_file_path=str(options.file),
            log_handler=progress,
        )
        # Not asyncio.run: it keeps Ctrl-C for itself until Lua is done.
        loop = asyncio.new_event_loop()
        try:
            outcome = loop.run_until_complete(runtime.execute(source, context=parameters, format="lua"))
        except KeyboardInterrupt:
            progress.say("interrupted; nothing is lost. Go on with:", f"  {again}")
            return _INTERRUPTED
        finally:
            loop.close()
        status = _finish(storage, outcome, progress, again)
    found = {"procedure_id": procedure_id, "run_id": run_id, "outcome": describe(outcome)}
    if options.json:
        print_json(found, other=str)
    elif outcome["success"]:
        print_json(found["outcome"]["result"], other=str)
    return status


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"{file} cannot be read: {error}") from error


def _create(cache: ProcedureCache, options: argparse.Namespace) -> str:
    if options.account_id is None:
        raise StorageError("which procedure? Give --procedure-id, or --account-id for a new one")
    return cache.create_procedure(account_id=options.account_id, name=options.file.stem)


def _parameters(storage: PlexusStorageAdapter, run_id: str, given: dict[str, Any]) -> dict[str, Any]:
    """The parameters of this run, stored before it begins: a resume has to have the same."""
    metadata = storage.load_procedure_metadata(storage.procedure_id)
    known = metadata.lua_state.get(INPUT)
    if known is not None and known["run_id"] == run_id:
        before: dict[str, Any] = known["parameters"]
        if given and given != before:
            raise StorageError(f"run {run_id} began with other parameters: {before}. Leave --param out to go on")
        return before
    metadata.lua_state[INPUT] = {"run_id": run_id, "parameters": given}
    storage.save_procedure_metadata(storage.procedure_id, metadata)
    return given


def _finish(storage: PlexusStorageAdapter, outcome: dict[str, Any], progress: Any, again: str) -> int:
    """Store and say how it ended: the exit status."""
    waiting = outcome.get("status")
    if outcome["success"]:
        storage.update_procedure_status(storage.procedure_id, "COMPLETED")
        progress.say("done")
        return 0
    if waiting is not None:
        storage.update_procedure_status(storage.procedure_id, waiting, outcome.get("pending_message_id"))
        progress.say(f"{waiting}: {outcome.get('message')}. Go on with:", f"  {again}")
        return _WAITS
    storage.update_procedure_status(storage.procedure_id, "FAILED")
    progress.say(f"failed: {outcome.get('error')}", "After mending it, go on with:", f"  {again}")
    complain(f"plexus-tactus-cache: {outcome.get('error')}")
    return 1
