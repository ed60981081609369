"""`plexus-tactus-cache doctor`: what is wrong with a store and what it stands on; `--repair`: make it good again."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from plexus_tactus_cache.cli.common import directory_of, print_json
from plexus_tactus_cache.document.reports import Finding, RepairReport
from plexus_tactus_cache.errors import StorageError
from plexus_tactus_cache.remote.client import KEY_VARIABLE, URL_VARIABLE, PlexusClient
from plexus_tactus_cache.store.local import LocalStore, examine, salvage


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add `doctor` to the command line."""
    doctor = commands.add_parser(
        "doctor", parents=[common], help="what is wrong with store, disk, lock, leader, clock, credentials"
    )
    doctor.add_argument(
        "--repair", action="store_true", help="make a damaged store good again; the damaged one is kept beside it"
    )
    doctor.set_defaults(run=_doctor, open=_find)


def _find(options: argparse.Namespace) -> AbstractContextManager[Path]:
    """The directory: a store that is damaged cannot be opened."""
    return nullcontext(directory_of(options))


def _doctor(directory: Path, options: argparse.Namespace) -> int:
    return _repair(directory, options) if options.repair else _examine(directory, options)


def _examine(directory: Path, options: argparse.Namespace) -> int:
    findings = []
    for finding in _findings(directory):
        findings.append(finding)
        if not options.json:
            print(f"{finding.level:<8} {finding.about}: {finding.detail}", flush=True)
    levels = {finding.level for finding in findings}
    if options.json:
        print_json(findings)
    elif "damage" in levels:
        print("`plexus-tactus-cache doctor --repair` makes good what is damaged, as far as that goes")
    return 1 if levels & {"problem", "damage"} else 0


def _findings(directory: Path) -> Iterator[Finding]:
    yield from examine(directory, time.time())
    yield _plexus(directory)


def _plexus(directory: Path) -> Finding:
    """Whether Plexus answers, with the credentials of this shell. One request, which reads nothing."""
    client = PlexusClient.from_environment()
    if client is None:
        detail = f"{URL_VARIABLE} and {KEY_VARIABLE} are not both set here: Plexus was not asked"
        return Finding(about="credentials", level="note", detail=detail)
    try:
        store = LocalStore(directory, read_only=True)
        try:
            store.check(client.api_url)
        finally:
            store.close()
    except StorageError as error:
        return Finding(about="credentials", level="problem", detail=f"Plexus was not asked: {error}")
    try:
        client.execute("query { __typename }")
    except Exception as error:  # noqa: BLE001 - whatever a request can raise
        failure = client.classify(error)
        detail = f"{client.api_url}: {failure.kind.value}: {failure.message}"
        return Finding(about="credentials", level="problem", detail=detail)
    finally:
        client.close()
    return Finding(about="credentials", level="ok", detail=f"{client.api_url} answers, and accepts the key")


def _repair(directory: Path, options: argparse.Namespace) -> int:
    report = salvage(directory, time.time())
    if options.json:
        print_json(report)
    else:
        print("\n".join(_described(report)))
    return 1 if report.partly or report.others else 0


def _described(report: RepairReport) -> Iterator[str]:
    if report.aside is None:
        yield "nothing is damaged, and nothing was changed"
        return
    yield f"the damaged store is in {report.aside}, and is not deleted"
    yield f"whole:  {len(report.whole)} procedures"
    for procedure_id in report.again:
        yield f"again:  {procedure_id} is read again from Plexus, which has all of it"
    for procedure_id, lost in report.partly.items():
        yield f"partly: {procedure_id}; lost: {', '.join(lost)}"
    for what in report.others:
        yield f"lost:   {what}"
