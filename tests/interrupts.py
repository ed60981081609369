"""Interrupts at every place where CPython looks for signals: where a function is entered, and after a call into C."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


def interrupted(
    work: Callable[[], object], at: int, again: int = 0, expected: tuple[type[BaseException], ...] = ()
) -> bool:
    """Run `work` with a KeyboardInterrupt at that event: whether it came so far.

    With `again`, a second one when so many functions were entered after the first. `expected`: what else it may raise.
    """
    events = calls = 0

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal events
        if event in ("call", "c_return"):
            events += 1
            if events == at:
                if again:
                    sys.settrace(trace)
                raise KeyboardInterrupt  # ends the profiling

    def trace(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == again:
            raise KeyboardInterrupt  # ends the tracing

    tracing = sys.gettrace()  # of who measures coverage
    gc.disable()  # in a callback of the collector's, such as the one that Hypothesis has, Python swallows an interrupt
    sys.setprofile(profile)
    caught: tuple[type[BaseException], ...] = (KeyboardInterrupt, *expected)
    try:
        work()
    except caught:
        pass
    finally:
        sys.setprofile(None)
        sys.settrace(tracing)
        gc.enable()
    return events >= at


def at_event(at: int, handler: Callable[[], object], work: Callable[[], object]) -> bool:
    """Run `work`, and `handler` at that event of it, as a signal handler that returns: whether it came so far."""
    events = 0

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal events
        if event in ("call", "c_return"):
            events += 1
            if events == at:
                sys.setprofile(None)
                handler()

    tracing = sys.gettrace()
    sys.settrace(None)
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
        sys.settrace(tracing)
    return events >= at


@contextmanager
def unmeasured() -> Iterator[None]:
    """For signals whose handler raises: coverage keeps its lock for ever when one hits it in the middle of a note."""
    tracing = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(tracing)
