"""Requests that leave no trace of what they carry: neither in the logs of the libraries below us, nor in tracebacks."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_quiet: ContextVar[frozenset[str]] = ContextVar("_quiet", default=frozenset())


@contextmanager
def discreet(*libraries: str) -> Iterator[None]:
    """For as long as it is open, in this thread.

    What `libraries` (`gql`, `botocore`) log below WARNING is dropped, whatever the levels of their loggers: gql logs
    whole requests and answers, botocore whole objects and signatures. The use that others make of them is logged as
    they want it.

    An error that leaves it keeps its traceback, but no frame in that keeps its locals, which rich and Sentry show:
    http.client has the API key there, as bytes.
    """
    for name, logger in list(logging.root.manager.loggerDict.items()):
        if name.partition(".")[0] in libraries and isinstance(logger, logging.Logger):
            logger.addFilter(_is_to_be_logged)  # once, however often
    before = sys.exception()
    token = _quiet.set(_quiet.get().union(libraries))
    try:
        yield
    except BaseException as error:
        _forget_locals(error, before)
        raise
    finally:
        _quiet.reset(token)


def _is_to_be_logged(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or record.name.partition(".")[0] not in _quiet.get()


def _forget_locals(error: BaseException, before: BaseException | None) -> None:
    """Of `error` and all that it came from, but for what the caller was handling before."""
    seen = {id(before)}
    links = [error]
    while links:
        link = links.pop()
        if id(link) in seen:
            continue
        seen.add(id(link))
        traceback.clear_frames(link.__traceback__)  # those that still run, ours and our callers', stay as they are
        links += [cause for cause in (link.__cause__, link.__context__) if cause is not None]
        if isinstance(link, BaseExceptionGroup):
            links += link.exceptions
