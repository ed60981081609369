"""Reconciling: pure decisions about what to do with one document.

`reconcile(base, local, remote)` compares what Plexus last confirmed with what both sides have now, part by part,
over wire digests (in which `1.0` and `1` are equal), and returns a `Plan`; merge.py makes documents of it.
Nothing here does I/O.

| remote, compared with base | local unchanged | local changed                |
|----------------------------|-----------------|------------------------------|
| unchanged                  | nothing         | push                         |
| changed                    | adopt           | merge, part by part: below   |
| record gone                | park            | park                         |
| never existed              | nothing         | create, if created here      |

| part         | changed on one side                        | changed on both, differently                          |
|--------------|--------------------------------------------|-------------------------------------------------------|
| log          | that side                                  | a reset in Plexus: Plexus; one a prefix of the other: |
|              |                                            | the longer, unless the other was cut on purpose;      |
|              |                                            | else a fork: as `on_fork` says                        |
| replay index | follows the log                            | follows the log                                       |
| keys, extras | that side                                  | the side whose log won, else local                    |
| status       | that side, but STALLED loses against a log | a reset's PENDING; CANCELLED, but for a new run;      |
|              | or a state that went on here               | finished before unfinished; as keys                   |

What loses in the last column is set aside in the conflict journal; so is a log tail that a reset cut off.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import takewhile
from typing import Any, Literal

from plexus_tactus_cache.envelope.parts import BOOK, Envelope
from plexus_tactus_cache.reconcile.snapshot import Digests, Remote

Side = Literal["local", "remote"]
OnFork = Literal["park", "local", "remote"]
PartName = Literal["execution_log", "state", "lua_state", "status", "async_procedures"]

FINISHED = frozenset({"COMPLETE", "COMPLETED", "FAILED", "ERROR", "CANCELLED", "ARCHIVED"})


class Action(Enum):
    NOTHING = "nothing"
    PUSH = "push"
    CREATE = "create"
    ADOPT = "adopt"  # take the remote document as it is
    MERGE = "merge"  # take the named parts of the remote, keep the others, push
    PARK = "park"


@dataclass(frozen=True)
class SetAside:
    """A value that loses: what the conflict journal has to keep of both sides.

    `key` is the key text of a state key, or the position where the two logs part. `kept` is None while nobody has
    decided.
    """

    part: PartName
    key: str | int | None
    kept: Side | None
    reason: str


@dataclass(frozen=True)
class Plan:
    """What to do; `take_*` name what a merge takes from the remote."""

    action: Action
    reason: str = ""
    take_log: bool = False
    replay_index: int | None = None  # the remote's, if it is to be taken
    take_status: bool = False
    restore_status: tuple[str | None, str | None] | None = None  # what the scanner's STALLED replaced
    take_extras: bool = False
    take_state: frozenset[str] = frozenset()
    take_lua_state: frozenset[str] = frozenset()
    set_aside: tuple[SetAside, ...] = ()


GONE = "the record is gone from Plexus; what is here is kept"
NEVER_EXISTED = (
    "Plexus has no such procedure, and it was not created here: create it there under this id, then "
    "`plexus-tactus-cache retry ID`, or begin with `ProcedureCache.create_procedure`, which works offline"
)
REMOVED = "the metadata was removed from the record in Plexus; what is here is kept"
TWO_WAYS = "the execution log went on here and in Plexus, differently"
UNKNOWN = "the record in Plexus does not go on from anything that is remembered here"
FORK = f"{TWO_WAYS}; both are kept: choose one with `plexus-tactus-cache conflicts` and `resolve`"


def reconcile(
    base: Digests | None,
    local: Digests,
    dirty: bool,
    remote: Remote | None,
    *,
    created_here: bool = False,
    on_fork: OnFork = "park",
    known: bool = True,
) -> Plan:
    """Decide about one document.

    Args:
        base: what Plexus's record was before, as far as the remote goes on from that (lineage.py).
        known: whether the remote goes on from anything that is remembered; if not, what it takes away is set aside.
        dirty: whether the local version is ahead of what was pushed.
        created_here: whether the procedure was created offline and Plexus has not confirmed it yet.
    """
    if remote is None:
        if base is None and created_here:
            return Plan(Action.CREATE)
        if base is None and not dirty:
            return Plan(Action.NOTHING)
        return Plan(Action.PARK, GONE if base is not None else NEVER_EXISTED)
    if remote.envelope.problem is not None:
        return Plan(Action.PARK, remote.envelope.problem)
    theirs = remote.digests(base)
    if base is not None and remote.envelope.absent and not base.blank:
        return Plan(Action.PARK, REMOVED)
    if base is not None and theirs == base:
        return Plan(Action.PUSH if dirty else Action.NOTHING)
    plan = _merge(base, local, theirs, remote.envelope, on_fork) if dirty else _adopt(base, local, theirs, remote)
    if known:
        return plan
    return dataclasses.replace(plan, set_aside=(*plan.set_aside, *_taken_away(plan, local, theirs)))


def _taken_away(plan: Plan, local: Digests, remote: Digests) -> list[SetAside]:
    """What the plan takes from a remote that nobody here remembers, over what is here."""
    parts: tuple[tuple[Literal["state", "lua_state"], frozenset[str]], ...] = (
        ("state", plan.take_state),
        ("lua_state", plan.take_lua_state),
    )
    named = {(one.part, one.key) for one in plan.set_aside}
    found: list[SetAside] = []
    for part, taken in parts:
        here, there = getattr(local, part), getattr(remote, part)
        lost = sorted(key for key in taken & here.keys() if here[key] != there.get(key))
        found += [SetAside(part, key, "remote", UNKNOWN) for key in lost if (part, key) not in named]
    if plan.take_log and local.log[: len(remote.log)] != remote.log[: len(local.log)]:
        parts_at = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(local.log, remote.log, strict=False)))
        if not any(one.part == "execution_log" for one in plan.set_aside):
            found.append(SetAside("execution_log", parts_at, "remote", UNKNOWN))
    return found


# --- the log ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _LogPlan:
    side: Side | None  # None: a fork
    parts_at: int  # the first position where the logs differ
    reset: bool = False


def _log(base: Digests, local: Digests, remote: Digests) -> _LogPlan:
    here, there, before = local.log, remote.log, base.log
    parts_at = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(here, there, strict=False)))
    if not there and remote.status == "PENDING" and base.status not in (None, "PENDING"):
        return _LogPlan("remote", parts_at, reset=True)  # also of a log that Plexus never saw
    if there in (before, here):
        return _LogPlan("local", parts_at)
    if len(there) < len(before) and (not there or remote.status == "PENDING"):
        return _LogPlan("remote", parts_at, reset=True)
    if here == before:
        return _LogPlan("remote", parts_at)
    if len(here) < len(before) and here == before[: len(here)]:
        return _LogPlan(None, parts_at)  # cleared here on purpose: what went on in Plexus does not go on from that
    if len(there) < len(before) and there == before[: len(there)]:
        return _LogPlan(None, parts_at)  # cleared there on purpose: what went on here does not go on from that
    if parts_at == min(len(here), len(there)):
        return _LogPlan("local" if len(here) > len(there) else "remote", parts_at)
    return _LogPlan(None, parts_at)


def _cut_off(
    log: _LogPlan, taken: Side | None, before: Digests, local: Digests, remote: Digests, envelope: Envelope
) -> list[SetAside]:
    """What of the logs is not in the result, and whose writer did not replace it himself."""
    unseen = local.log != before.log and log.parts_at < len(local.log)  # of entries that Plexus's writer cannot know
    if taken == "remote" and (len(remote.log) < len(local.log) or unseen):
        reason = "the procedure was reset in Plexus" if log.reset else "the log was cut short in Plexus"
        return [SetAside("execution_log", log.parts_at, "remote", reason)]
    if envelope.beyond.keys() - set(local.log):
        reason = "the checkpoints in Plexus have a gap in their positions; those behind it were cut off"
        return [SetAside("execution_log", len(envelope.document.log), "local", reason)]
    return []


# --- whole documents --------------------------------------------------------------------------------------


def _adopt(base: Digests | None, local: Digests, theirs: Digests, remote: Remote) -> Plan:
    """All of the remote; what was not fetched is here already."""
    before = base or Digests()
    log = _log(before, local, theirs)
    fetched = {"checkpoints", "state", "lua_state", BOOK} - remote.unchanged
    return Plan(
        Action.ADOPT,
        take_log="checkpoints" in fetched,
        replay_index=theirs.replay_index,
        take_status=True,
        take_extras=BOOK in fetched and (theirs.extras is not None or local.extras is not None),
        take_state=frozenset({*local.state, *theirs.state}) if "state" in fetched else frozenset(),
        take_lua_state=frozenset({*local.lua_state, *theirs.lua_state}) if "lua_state" in fetched else frozenset(),
        set_aside=tuple(_cut_off(log, "remote", before, local, theirs, remote.envelope)),
    )


def _merge(base: Digests | None, local: Digests, remote: Digests, envelope: Envelope, on_fork: OnFork) -> Plan:
    """Three ways. Without a base nobody knows what was there before: all that both sides have was changed by both."""
    before = base or Digests()
    log = _log(before, local, remote)
    aside: list[SetAside] = []
    if log.side is None and on_fork == "park":
        return Plan(Action.PARK, FORK, set_aside=(SetAside("execution_log", log.parts_at, None, FORK),))
    if log.side is None and on_fork != "park":
        aside.append(SetAside("execution_log", log.parts_at, on_fork, TWO_WAYS))
        log = _LogPlan(on_fork, log.parts_at)
    else:
        aside += _cut_off(log, log.side, before, local, remote, envelope)
    # A log that was there before anybody here looked has not gone on.
    winner: Side = "remote" if log.side == "remote" and base is not None else "local"
    take_extras = _side(before.extras, local.extras, remote.extras)
    if take_extras is None:
        aside.append(SetAside("async_procedures", None, winner, _BOTH))
    take_status, restore_status = _status(base, local, remote, log, winner, aside)
    if local.log == remote.log:
        take_replay_index = _side(before.replay_index, local.replay_index, remote.replay_index) is True
    else:
        take_replay_index = log.side == "remote"
    plan = Plan(
        Action.MERGE,
        take_log=log.side == "remote",
        replay_index=remote.replay_index if take_replay_index else None,
        take_status=take_status,
        restore_status=restore_status,
        take_extras=winner == "remote" if take_extras is None else take_extras,
        take_state=_keys("state", before.state, local.state, remote.state, winner, aside),
        take_lua_state=_keys("lua_state", before.lua_state, local.lua_state, remote.lua_state, winner, aside),
    )
    if plan == Plan(Action.MERGE) and not aside:
        return Plan(Action.PUSH)
    return dataclasses.replace(plan, set_aside=tuple(aside))


_BOTH = "changed here and in Plexus, differently"


def _side(base: Any, local: Any, remote: Any) -> bool | None:
    """Whether to take the remote's, three-way; None when both changed it differently."""
    if remote in (base, local):
        return False
    return True if local == base else None


def _keys(
    part: Literal["state", "lua_state"],
    base: Mapping[str, str],
    local: Mapping[str, str],
    remote: Mapping[str, str],
    winner: Side,
    aside: list[SetAside],
) -> frozenset[str]:
    """The keys to take from the remote; absent and null differ."""
    taken = set()
    for key in sorted({*base, *local, *remote}):
        take = _side(base.get(key), local.get(key), remote.get(key))
        if take is None:
            aside.append(SetAside(part, key, winner, _BOTH))
            take = winner == "remote"
        if take:
            taken.add(key)
    return frozenset(taken)


def _status(
    base: Digests | None, local: Digests, remote: Digests, log: _LogPlan, winner: Side, aside: list[SetAside]
) -> tuple[bool, tuple[str | None, str | None] | None]:
    """Whether to take the remote's, and what else to restore; status and message are one unit."""
    here, there = _unit(local), _unit(remote)
    before = _unit(base) if base is not None else there
    went_on = log.side == "local" and _content(local) != _content(base or Digests())
    if there[0] == "STALLED" and there != before and went_on:  # the scanner was wrong about us
        return False, (before[0] or "RUNNING", before[1]) if here[0] is None or here == before else None
    if here[0] is None:  # what was never set here is no change
        return True, None
    take = _side(before, here, there)
    if base is None and here != there and there[0] in FINISHED:
        take = None  # any other status is what a run begins with
    if take is None:
        new_run = base is not None and not set(local.runs) <= set(base.runs)
        kept = _outranking(here[0], there[0], new_run, log.reset) or winner
        aside.append(SetAside("status", None, kept, _BOTH))
        take = kept == "remote"
    return take, None


def _outranking(here: str | None, there: str | None, new_run: bool, reset: bool) -> Side | None:
    """Which of two new statuses wins, if that does not depend on the log."""
    if (reset and there == "PENDING") or (there == "CANCELLED" and not new_run):
        return "remote"
    if there != "CANCELLED" and (here in FINISHED) != (there in FINISHED):
        return "local" if here in FINISHED else "remote"
    return None


def _content(digests: Digests) -> tuple[Any, ...]:
    return digests.log, digests.state, digests.lua_state


def _unit(digests: Digests) -> tuple[str | None, str | None]:
    return digests.status, digests.waiting_on_message_id
