"""Threads: calls that are waited for no longer than one wants to."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from plexus_tactus_cache.errors import OutOfResources

Result = TypeVar("Result")


def started(work: Callable[[], None], name: str) -> threading.Thread:
    """A daemon thread that does `work`. Raises OutOfResources where the system has no more threads."""
    thread = threading.Thread(target=work, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise OutOfResources(
            f"no thread can be started ({error}): end some, or allow more (ulimit -u); then all goes on"
        ) from error
    return thread


def within(seconds: float, call: Callable[[], Result], name: str) -> Result:
    """What `call()` returns or raises. It runs in a daemon thread of its own, as a client may retry for longer than
    we want to wait (plexus-facts.md §7), and goes on there after `seconds`, when this raises TimeoutError. Raises
    OutOfResources, and calls nothing, where no thread can be started."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            future.set_exception(error)

    started(run, name)
    return future.result(seconds)
