"""Lineage: what a state of a record includes, and by that the state which a merge compares with.

Compare-and-swap protects Plexus from us. Nothing protects us from a writer who reads the whole metadata, waits while
we push, and writes it back; and a push whose answer was lost may lie under another machine's push when we look. So
every push says in its record what it includes: for each store the version of it. And every store remembers for a while
what a record was: the *history*. The base of a merge is the newest snapshot of the history that the record includes:

| the record is                              | the base is                                                        |
|--------------------------------------------|--------------------------------------------------------------------|
| as we left it, or changed since            | the last one                                                       |
| a push of ours without an answer, also     | what that push sent: it landed                                     |
| below the push of another machine          |                                                                    |
| an older one, written back                 | what the writer had read: what equals it is no change of his       |
| without lineage                            | the newest that had none, as long as that is remembered; else the  |
|                                            | last one                                                           |
| of a lineage that nobody here remembers    | the last one; what it takes away goes to the journal               |
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, NamedTuple

from plexus_tactus_cache.envelope.placement import Attachment
from plexus_tactus_cache.reconcile.snapshot import Digests

Lineage = Mapping[str, int]  # store id -> version of it that is included; who pushed last comes last

STORES = 16  # in a lineage; those that did not push for longest are left out
REMEMBERED = 32  # snapshots of a history besides those of pushes without an answer


def joined(*lineages: Lineage) -> dict[str, int]:
    """What includes all of them."""
    found: dict[str, int] = {}
    for lineage in lineages:
        for store, version in lineage.items():
            found[store] = max(version, found.pop(store, version))
    return dict(list(found.items())[-STORES:])


def includes(whole: Lineage, part: Lineage) -> bool:
    """Whether a record of lineage `whole` has, or had, all that `part` has."""
    return all(store in whole and whole[store] >= version for store, version in part.items())


@dataclass(frozen=True)
class Snapshot:
    """What a record was at one moment, or would have become."""

    id: str  # of the push, or what `read_id` makes of a token
    lineage: Lineage
    version: int | None  # of this store's document, if it was a push of ours
    digests: Digests
    attachments: Mapping[str, Attachment] = field(default_factory=dict)  # by part
    over: int = 0  # see Placement


def read_id(token: str) -> str:
    """The id of a snapshot of what was read from Plexus."""
    return f"read {token}"


@dataclass(frozen=True)
class Base:
    """What Plexus last confirmed, or showed: the snapshot, and what the next push is made for."""

    updated_at: str
    snapshot: Snapshot
    foreign: dict[str, Any] = field(default_factory=dict)

    @property
    def digests(self) -> Digests:
        return self.snapshot.digests

    def to_json(self) -> dict[str, Any]:
        return {"updated_at": self.updated_at, "foreign": self.foreign, "id": self.snapshot.id}


class Chosen(NamedTuple):
    """The base for a record, and what follows from where it was found."""

    base: Snapshot | None
    is_last: bool  # whether Plexus had nothing newer from us
    is_known: bool  # whether the record goes on from something that is remembered


@dataclass(frozen=True)
class History:
    """What is remembered of a record, the oldest first; `last` is the id of what Plexus last confirmed, or showed."""

    snapshots: tuple[Snapshot, ...] = ()
    last: str | None = None

    @property
    def base(self) -> Snapshot | None:
        """The last one that Plexus confirmed, or that was read there."""
        return next((one for one in self.snapshots if one.id == self.last), None)

    @property
    def pushes(self) -> tuple[Snapshot, ...]:
        """Those without an answer: they may have landed."""
        if self.last is None:
            return self.snapshots
        ids = [one.id for one in self.snapshots]
        return self.snapshots[ids.index(self.last) + 1 :] if self.last in ids else self.snapshots

    @property
    def lineage(self) -> dict[str, int]:
        """What the document here includes, but for what was never sent."""
        return joined(*(one.lineage for one in self.snapshots))

    def base_of(self, lineage: Lineage | None, push_id: str | None) -> Chosen:
        """The base for a record. No lineage: it has none; `push_id`: of the push that it says it is, if it says so."""
        if lineage is not None:
            found = self._newest(lambda one: includes(lineage, one.lineage))
            return found or Chosen(self.base, True, self.base is None)
        landed = self._newest(lambda one: one.id == push_id)
        # else its writer dropped what he does not know, or had read it before we first pushed
        return landed or self._newest(lambda one: not one.lineage) or Chosen(self.base, True, True)

    def _newest(self, fits: Callable[[Snapshot], bool]) -> Chosen | None:
        """The newest snapshot that fits."""
        unanswered = {one.id for one in self.pushes}
        newer: list[str] = []
        for one in reversed(self.snapshots):
            if fits(one):
                return Chosen(one, unanswered.issuperset(newer), True)
            newer.append(one.id)
        return None

    def sending(self, push: Snapshot) -> History:
        """With a push that is about to be sent; one of the same id is the same content again."""
        return dataclasses.replace(self, snapshots=(*self._without({push.id}), push))

    def without(self, ids: Iterable[str]) -> History:
        """Without pushes that certainly were not applied."""
        return dataclasses.replace(self, snapshots=self._without(set(ids) - {self.last}))

    def confirmed(self, push_id: str) -> History:
        """Plexus has applied that push. Those before it, without an answer, were made for another record."""
        return self._at(self.snapshots, push_id)

    def read(self, snapshot: Snapshot) -> History:
        """The record is this now."""
        return self._at((*self._without({snapshot.id}), snapshot), snapshot.id)

    def _without(self, ids: set[str]) -> tuple[Snapshot, ...]:
        return tuple(one for one in self.snapshots if one.id not in ids)

    def _at(self, snapshots: Sequence[Snapshot], last: str) -> History:
        place = [one.id for one in snapshots].index(last)
        return History(tuple(snapshots[max(0, place + 1 - REMEMBERED) :]), last)


# --- as JSON ----------------------------------------------------------------------------------------------
#
# The newest snapshot as a whole, and each older one as what it has differently than the next: a history costs little
# more than one snapshot, and the changes.


def history_to_json(history: History) -> list[dict[str, Any]]:
    """The newest first."""
    stored: list[dict[str, Any]] = []
    newer = Digests()
    for one in reversed(history.snapshots):
        stored.append(
            {
                "id": one.id,
                "lineage": list(one.lineage.items()),
                "version": one.version,
                "attachments": {name: list(attachment) for name, attachment in one.attachments.items()},
                "over": one.over,
                "digests": _difference(newer, one.digests),
            }
        )
        newer = one.digests
    return stored


def history_from_json(stored: list[dict[str, Any]], last: str | None) -> History:
    """`last`: see History."""
    snapshots: list[Snapshot] = []
    newer = Digests()
    for one in stored:
        newer = _applied(newer, one["digests"])
        snapshots.append(
            Snapshot(
                one["id"],
                dict(one["lineage"]),
                one["version"],
                newer,
                _attachments(one["attachments"]),
                one["over"],
            )
        )
    return History(tuple(reversed(snapshots)), last)


def upgraded(base: dict[str, Any] | None, sent: dict[str, dict[str, Any]]) -> tuple[dict[str, Any] | None, list[Any]]:
    """Base and history, of what stores of format 2 kept: the base as a whole, and the pushes without an answer."""
    snapshots = []
    if base is not None:
        snapshots.append({**base, "id": read_id(base["updated_at"]), "lineage": [], "version": None})
        base = {"updated_at": base["updated_at"], "foreign": base["foreign"], "id": snapshots[0]["id"]}
    snapshots += [{**push, "id": push_id, "lineage": []} for push_id, push in sent.items()]
    whole = [{**one, "digests": _applied(Digests(), _from_format_2(one["digests"]))} for one in snapshots]
    history = [
        Snapshot(one["id"], {}, one["version"], one["digests"], _attachments(one["attachments"]), one["over"])
        for one in whole
    ]
    return base, history_to_json(History(tuple(history)))


def _from_format_2(digests: dict[str, Any]) -> dict[str, Any]:
    return {**digests, "log": [0, digests["log"]]}


def _attachments(stored: dict[str, Any]) -> dict[str, Attachment]:
    return {name: Attachment(*attachment) for name, attachment in stored.items()}


_SCALARS = ("replay_index", "extras", "status", "waiting_on_message_id", "runs")


def _difference(newer: Digests, older: Digests) -> dict[str, Any]:
    """What makes `older` of `newer`."""
    found: dict[str, Any] = {
        name: value for name in _SCALARS if (value := getattr(older, name)) != getattr(newer, name)
    }
    common = _common(newer.log, older.log)
    if common < max(len(newer.log), len(older.log)):
        found["log"] = [common, older.log[common:]]
    for name in ("state", "lua_state"):
        here, there = getattr(newer, name), getattr(older, name)
        changed = {key: there.get(key) for key in {**here, **there} if here.get(key) != there.get(key)}
        if changed:
            found[name] = changed
    return found


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """How many entries both begin with; nearly always it is all of the shorter."""
    length = min(len(one), len(other))
    if one[:length] == other[:length]:
        return length
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _applied(newer: Digests, difference: dict[str, Any]) -> Digests:
    changed = {name: difference[name] for name in _SCALARS if name in difference}
    if "runs" in changed:
        changed["runs"] = tuple(changed["runs"])
    if "log" in difference:
        common, tail = difference["log"]
        changed["log"] = (*newer.log[:common], *tail)
    for name in ("state", "lua_state"):
        if name in difference:
            part = {**getattr(newer, name), **difference[name]}
            changed[name] = {key: value for key, value in part.items() if value is not None}
    return dataclasses.replace(newer, **changed)
