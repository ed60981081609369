"""The command line: `plexus-tactus-cache status | ls | doctor | sync | pull | retry | conflicts | resolve | run`.

Exit status: 0 when what was asked is done, 1 when it is not (something is still pending or parked after `sync`, the
store cannot be used), 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pydantic import ValidationError

from plexus_tactus_cache.cli import conflicts, doctor, run, status, sync
from plexus_tactus_cache.cli.common import common_options
from plexus_tactus_cache.errors import StorageError

GROUPS = (status, doctor, sync, conflicts, run)


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
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    common = common_options()
    for group in GROUPS:
        group.add_commands(commands, common)
    return parser
