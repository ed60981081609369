"""The command line: `plexus-tactus-cache COMMAND`, each group of commands in a module of its own (`GROUPS`).

Exit status: 0 when what was asked is done, 1 when it is not (something is still pending or parked after `sync`, the
store cannot be used), 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from pydantic import ValidationError

from plexus_tactus_cache.cli import conflicts, doctor, run, status, sync, upkeep
from plexus_tactus_cache.cli.common import common_options, complain
from plexus_tactus_cache.errors import StorageError
from plexus_tactus_cache.printable import printable

GROUPS = (status, doctor, sync, conflicts, upkeep, run)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        with options.open(options) as cache:
            return int(options.run(cache, options))
    except (StorageError, ValidationError) as error:
        complain(*f"plexus-tactus-cache: {error}".split("\n"))  # pydantic's take several lines
        return 1
    except KeyboardInterrupt:
        complain("plexus-tactus-cache: interrupted; nothing is lost")
        return 130


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="plexus-tactus-cache", description="The local store of Tactus procedures, and what of it is in Plexus."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    common = common_options()
    for group in GROUPS:
        group.add_commands(commands, common)
    return parser
