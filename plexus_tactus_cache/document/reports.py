"""The reports: what a cache tells people about itself."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Connection = Literal["unknown", "online", "offline", "throttled", "unauthorized", "no client"]


class _Report(BaseModel):
    model_config = ConfigDict(frozen=True)


class ProcedureStatus(_Report):
    """Where one procedure of the local store stands. Times are seconds since the epoch."""

    procedure_id: str
    version: int
    pushed_version: int
    dirty: bool
    entries: int
    status: str | None
    parked_reason: str | None
    last_error: str | None
    attempts: int
    next_attempt: float | None
    dirty_since: float | None


class Conflict(_Report):
    """A value that reconciling set aside, or could not decide about. `at`: seconds since the epoch.

    `part` is `execution_log`, `state`, `lua_state`, `status` or `async_procedures`; `key` a key of the state, or for
    the log the position from which on `local` and `remote` hold its entries; the status comes with the message it
    waits for. `absent` names the sides that do not have the value at all (or, for the base, where it is not known);
    `kept` is None for a log that went two ways and waits for a decision.
    """

    id: str
    procedure_id: str
    part: str
    key: Any
    local: Any
    remote: Any
    base: Any
    absent: tuple[str, ...]
    kept: Literal["local", "remote"] | None
    reason: str
    at: float
    resolved: Literal["local", "remote"] | None


class CacheStatus(_Report):
    """The truth about one cache: what is not in Plexus yet, why, and what happens next.

    `dirty`, `parked`, `conflicts` (open ones) and `procedures` are counts; a parked procedure with local changes
    counts as dirty too; ages are seconds, other times seconds since the epoch. `writer` is the process (its pid) that
    is writing in the store at this moment.
    """

    directory: str
    endpoint: str | None
    connection: Connection
    problem: str | None
    procedures: int
    dirty: int
    oldest_dirty_age: float | None
    parked: int
    conflicts: int
    last_success: float | None
    next_attempt: float | None
    leader: bool
    store_problem: str | None
    store_bytes: int
    writer: int | None


class Finding(_Report):
    """One thing that was looked at. `problem`: somebody has to do something, and `detail` says what; `damage`: a repair
    can mend it."""

    about: str
    level: Literal["ok", "note", "problem", "damage"]
    detail: str


class RepairReport(_Report):
    """What a repair has made of a damaged store, as procedure ids. The damaged one is in the directory `aside`; None:
    nothing was damaged, and nothing was changed.

    `whole` are as they were; `again` are read again from Plexus, which has all of them; `partly`: what is lost of
    others, in words; `others`: rows of no procedure that are lost.
    """

    aside: str | None
    whole: list[str] = []
    again: list[str] = []
    partly: dict[str, list[str]] = {}
    others: list[str] = []


class GcReport(_Report):
    """What was let go of: the procedures, by id; and how many bytes the store takes now."""

    forgotten: tuple[str, ...]
    store_bytes: int


class SyncReport(_Report):
    """What one foreground pass did, as procedure ids; `pending` is what is still not in Plexus."""

    pushed: tuple[str, ...] = ()
    pulled: tuple[str, ...] = ()
    merged: tuple[str, ...] = ()
    parked: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
