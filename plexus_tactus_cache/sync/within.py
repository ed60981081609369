"""Calls that are waited for no longer than one wants to."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


def within(seconds: float, call: Callable[[], Result], name: str) -> Result:
    """What `call()` returns or raises. It runs in a daemon thread of its own, as a client may retry for longer than
    we want to wait (plexus-facts.md §7), and goes on there after `seconds`, when this raises TimeoutError."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future.result(seconds)
