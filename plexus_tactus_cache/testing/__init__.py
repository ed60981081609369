"""What tests of code that uses the cache need: a Plexus that fails on demand, fixtures for pytest, and no network.

Needs the extra `testing`. pytest imports this folder in every run where the package is installed (plugin.py), so the
simulator is imported only when one of its names is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from plexus_tactus_cache.remote.client import OFFLINE

if TYPE_CHECKING:
    from plexus_tactus_cache.testing.simulator import DEFAULT_API_KEY, FAULTS, LogEntry, Simulator, TopField

__all__ = ["DEFAULT_API_KEY", "FAULTS", "OFFLINE", "LogEntry", "Simulator", "TopField"]

INSTALL = "install plexus-tactus-cache with its extra `testing`"

if not TYPE_CHECKING:  # a type checker would take every name for one of ours

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            simulator = import_module(f"{__name__}.simulator")
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(f"The simulator needs {error.name}: {INSTALL}", name=error.name) from error
        return getattr(simulator, name)
