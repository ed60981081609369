"""Pure: arguments are checked before anything is changed, one function for each kind of them.

Each returns the value in the form that is kept (a str for a subclass of it such as an enum's), or raises: WrongType for
a type that cannot be, InvalidArgument for a value that could not be stored, or not be sent to Plexus. Their texts name
the argument and what is wanted, never what was given: that may be somebody's data.

Lengths are bytes of UTF-8. What is refused is what Plexus could never have, so that it would wait here for ever.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from enum import Enum
from operator import attrgetter
from typing import Any, TypeVar
from urllib.parse import quote

from plexus_tactus_cache.document.encoding import encode, is_lua_table
from plexus_tactus_cache.document.models import CheckpointEntry, ProcedureMetadata, SourceLocation
from plexus_tactus_cache.document.plain import SAFE_INTEGER, SMALLEST_NUMBER
from plexus_tactus_cache.errors import InvalidArgument, ValueNotSerializable, WrongType

# A key in S3 has at most 1,024 bytes; around the percent-encoded id ours have up to 120 (`new_key` in attachments.py).
LONGEST_ID = 900
# A status and the message it waits for are attributes of their own, which DynamoDB can index up to this length.
LONGEST_STATUS = 1024
# The name of an attribute in DynamoDB, which a key in the metadata is, has at most 64 KB.
LONGEST_NAME = 65_535
LONGEST_WAIT = 1e9  # seconds, about 30 years; what the operating system waits for has a limit of its own

Kind = TypeVar("Kind")

_ENTRY = attrgetter(*CheckpointEntry.model_fields)
_LOCATION = attrgetter(*SourceLocation.model_fields)
_METADATA = attrgetter("__dict__", *ProcedureMetadata.model_fields)
_RUN = attrgetter("run_id", "procedure_name", "start_time")


# --- text -------------------------------------------------------------------------------------------------


def text(value: Any, argument: str, longest: int = LONGEST_NAME) -> str:
    """Text that can be stored: any characters but lone surrogates."""
    if isinstance(value, Enum) and not isinstance(value, str):
        value = value.value  # what JSON makes of an enum
    if not isinstance(value, str):
        raise WrongType(argument, f"want text (str), not {kind_of(value)}")
    plain = value if type(value) is str else str.__str__(value)
    if plain.isascii():
        length = len(plain)
    else:
        try:
            length = len(plain.encode())
        except UnicodeEncodeError as error:
            raise InvalidArgument(
                argument,
                f"character {error.start} of {len(plain)} is a lone surrogate, which no UTF-8 text has: replace it, "
                "with text.encode('utf-8', 'replace').decode() for example",
            ) from None
    if length > longest:
        raise InvalidArgument(argument, f"it has {length:,} bytes, and may have {longest:,} at most: shorten it")
    return plain


def optional_text(value: Any, argument: str, longest: int = LONGEST_NAME) -> str | None:
    """As `text`, or None."""
    return None if value is None else text(value, argument, longest)


def procedure_id(value: Any, argument: str = "procedure_id") -> str:
    """The id of a procedure. Percent-encoded it is part of a key in S3."""
    plain = text(value, argument, LONGEST_ID)
    if len(plain) * 12 > LONGEST_ID and len(quote(plain, safe="")) > LONGEST_ID:
        raise InvalidArgument(
            argument, f"percent-encoded it has more than {LONGEST_ID} bytes, and could not be part of a key in S3"
        )
    return plain


def status(value: Any, argument: str = "status") -> str:
    """The status of a procedure."""
    return text(value, argument, LONGEST_STATUS)


def waiting_on_message_id(value: Any, argument: str = "waiting_on_message_id") -> str | None:
    """The message that a status waits for, or None."""
    return optional_text(value, argument, LONGEST_STATUS)


def state_key(value: Any, argument: str = "key") -> Any:
    """A top-level key of the state: text, or any other value that can be a key of a dict and be stored."""
    if isinstance(value, str):
        return text(value, argument)
    try:
        hash(value)
    except TypeError:
        raise WrongType(argument, f"a {kind_of(value)} cannot be a key") from None
    try:
        encode({value: None})
    except ValueNotSerializable as error:
        raise WrongType(argument, error.problem) from None
    return value


# --- numbers ----------------------------------------------------------------------------------------------


def seconds(value: Any, argument: str = "timeout") -> float:
    """A duration: not negative; an infinite one is as long as can be waited."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise WrongType(argument, f"want a number of seconds, not {kind_of(value)}")
    if not value >= 0:  # nan fails too
        raise InvalidArgument(argument, "want a number of seconds, 0 or more")
    return float(min(value, LONGEST_WAIT))


def wait(value: Any, argument: str = "timeout") -> float:
    """A time to wait, as `deadline - now` gives it: one that is over already is 0."""
    over = isinstance(value, (int, float)) and value < 0
    return 0.0 if over else seconds(value, argument)


def whole(value: Any, argument: str, least: int = 0) -> int:
    """A whole number from `least` to 2**53: beyond that a number in JSON is not safe (plexus-facts.md §3)."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise WrongType(argument, f"want a whole number (int), not {kind_of(value)}")
    if not least <= value <= SAFE_INTEGER:
        raise InvalidArgument(argument, f"want a whole number from {least:,} to {SAFE_INTEGER:,}")
    return int(value)


def duration(value: Any, argument: str = "duration_ms") -> float | None:
    """Milliseconds that something took, or None; negative where a clock was set back meanwhile."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise WrongType(argument, f"want a number of milliseconds or None, not {kind_of(value)}")
    if value and not SMALLEST_NUMBER <= abs(value) <= SAFE_INTEGER:  # nan fails too
        raise InvalidArgument(argument, f"want a finite number of milliseconds, below {SAFE_INTEGER:,}")
    return float(value) if isinstance(value, float) else int(value)


# --- entries of the log -----------------------------------------------------------------------------------


def entry(value: Any, place: int | None) -> None:
    """The shape of a CheckpointEntry, ours or Tactus's, and that it says at which `place` of the log it is."""
    _has(value, _ENTRY, "entry", "a CheckpointEntry")
    if whole(value.position, "position") != place and place is not None:
        raise InvalidArgument("position", f"this entry is number {place:,} of the log (from 0), and has to say so")


def timestamp(value: Any, argument: str = "timestamp") -> str:
    """A moment as ISO 8601, that can be read again and be told in UTC, as Plexus wants it."""
    if not isinstance(value, dt.datetime):
        raise WrongType(argument, f"want a datetime, not {kind_of(value)}")
    written = value.isoformat()
    if type(value) is dt.datetime and (value.tzinfo is None or value.tzinfo is dt.UTC):
        return written
    try:
        moment = dt.datetime.fromisoformat(written)
        if moment.tzinfo is not None:
            moment.astimezone(dt.UTC)
    except (ValueError, OverflowError):
        raise InvalidArgument(argument, "want a datetime of the years 1 to 9999, in UTC too") from None
    return written


def source_location(value: Any, argument: str = "source_location") -> list[Any] | None:
    """File, line, function and code_context, or None."""
    if value is None:
        return None
    _has(value, _LOCATION, argument, "a SourceLocation")
    return [
        text(value.file, f"{argument}.file"),
        whole(value.line, f"{argument}.line", -SAFE_INTEGER),  # Lua says -1 where it has none
        optional_text(value.function, f"{argument}.function"),
        optional_text(value.code_context, f"{argument}.code_context", SAFE_INTEGER),
    ]


def captured_vars(value: Any, argument: str = "captured_vars") -> Mapping[Any, Any] | None:
    """A dict or None; what is in it is described where it cannot be stored."""
    return None if value is None else mapping(value, argument)


# --- whole documents --------------------------------------------------------------------------------------


def metadata(value: Any, argument: str = "metadata") -> None:
    """A ProcedureMetadata, ours or Tactus's, whatever is in it."""
    _has(value, _METADATA, argument, "a ProcedureMetadata")


def shape(value: Any, argument: str = "metadata") -> None:
    """What is in a ProcedureMetadata, but for what is checked where it has changed: entries, values and status."""
    for name, want in (("execution_log", list), ("state", dict), ("lua_state", dict)):
        if not isinstance(getattr(value, name), want):
            raise WrongType(f"{argument}.{name}", f"want a {want.__name__}, not {kind_of(getattr(value, name))}")
    whole(value.replay_index, f"{argument}.replay_index")


def mapping(value: Any, argument: str) -> Mapping[Any, Any]:
    """A dict, or what can be one: a Lua table too."""
    if is_lua_table(value):
        return dict(value.items())
    if not isinstance(value, Mapping):
        raise WrongType(argument, f"want a dict, not {kind_of(value)}")
    return value


def run(value: Any, argument: str = "run") -> None:
    """An ExecutionRun of Tactus: what it is found by. What else is in it is described where it cannot be stored."""
    _has(value, _RUN, argument, "an ExecutionRun")
    text(value.run_id, f"{argument}.run_id")
    text(value.procedure_name, f"{argument}.procedure_name")
    timestamp(value.start_time, f"{argument}.start_time")


def sequence(value: Any, argument: str) -> list[Any]:
    """A list, or what can be one."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise WrongType(argument, f"want a list, not {kind_of(value)}")
    return list(value)


# --- others -----------------------------------------------------------------------------------------------


def instance(value: Any, kind: type[Kind], argument: str) -> Kind:
    """A value of that type."""
    if not isinstance(value, kind):
        raise WrongType(argument, f"want a {kind.__name__}, not {kind_of(value)}")
    return value


def _has(value: Any, attributes: attrgetter[Any], argument: str, want: str) -> None:
    """Raises WrongType where one of its attributes is missing."""
    try:
        attributes(value)
    except AttributeError as error:
        raise WrongType(argument, f"want {want}, not {kind_of(value)} (it has no {error.name})") from None


def kind_of(value: Any) -> str:
    """The name of a value's type."""
    kind = type(value)
    return "None" if value is None else kind.__qualname__
