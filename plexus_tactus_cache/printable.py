"""What others wrote, on a terminal or in a log: it moves no cursor, hides no text and forges no line there."""

from __future__ import annotations

import logging


def printable(text: str) -> str:
    r"""`text` in one line, with escapes as Python writes them (`\x1b`, `\u202e`) for what is not printable.

    These are control characters, line ends and tabs included, bidirectional and other invisible ones, and lone
    surrogates.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _make_printable(record: logging.LogRecord) -> bool:
    """The arguments of a log record: ids, names, and what Plexus said."""
    if isinstance(record.args, tuple):
        record.args = tuple(one if isinstance(one, int | float) else printable(str(one)) for one in record.args)
    return True


logging.getLogger("plexus_tactus_cache").addFilter(_make_printable)  # the one logger of the package
