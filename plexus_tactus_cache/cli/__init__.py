"""The command line, `plexus-tactus-cache`: a module for each group of commands."""

from plexus_tactus_cache.cli.main import main

__all__ = ["main"]
