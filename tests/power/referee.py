"""The referee: opens what a power cut left, by the public API, and says what is wrong with it."""

from __future__ import annotations

import itertools
import json
import random
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from helpers import fast

from plexus_tactus_cache import ProcedureCache, StorageError, StoreReadOnly
from power.disk import Disk
from power.history import Picture, Step, do, empty, procedure_of, say, seen
from power.record import STORE, Event, Kind

_AFTERWARDS = Step("checkpoint_save", ["afterwards", "written after the power came back"])


class Wrong(Enum):
    """What can be."""

    LOST = "an acknowledged write is not there"
    BROKEN = "something is there by half, or cannot be opened"


class Finding(NamedTuple):
    """Something wrong with an image: made of the record up to the event `cut`, with the dice of `seed`."""

    wrong: Wrong
    cut: int
    seed: str
    what: str


class Ledger:
    """What is acknowledged, and what is begun, in each lane."""

    def __init__(self) -> None:
        self.acknowledged: dict[str, Picture] = {}
        self.begun: dict[str, Step] = {}  # and not acknowledged
        self._taken: dict[str, list[Step]] = {}

    def take(self, event: Event) -> None:
        """What the writer said next."""
        said = json.loads(event.data)
        if "begun" in said:
            lane, step = said["begun"], Step(said["act"], said["arguments"])
            self.begun[lane] = step
            return
        lane = said["acknowledged"]
        step = self.begun.pop(lane)
        self.acknowledged[lane] = say(self.acknowledged.get(lane, empty()), step)
        self._taken.setdefault(lane, []).append(step)

    def lanes(self) -> list[str]:
        return sorted({*self.acknowledged, *self.begun})

    def judge(self, lane: str, found: Picture) -> tuple[Wrong, str] | None:
        """What is wrong with a lane in which that was found."""
        wanted = self.acknowledged.get(lane, empty())
        if found == wanted or (lane in self.begun and found == say(wanted, self.begun[lane])):
            return None
        taken = self._taken.get(lane, [])
        past = itertools.accumulate(taken, say, initial=empty())
        counts = [count for count, state in enumerate(past) if state == found]
        if not counts:
            return Wrong.BROKEN, f"{lane} is as it never was: {_differences(found, wanted)}"
        return Wrong.LOST, f"{lane} has {counts[-1]} of {len(taken)} acknowledged writes"


def _differences(found: Picture, wanted: Picture) -> str:
    parts = [name for name, one, other in zip(Picture._fields, found, wanted, strict=True) if one != other]
    return f"{', '.join(parts)} after {len(found.log)} entries, {len(wanted.log)} acknowledged"


def cuts(events: Sequence[Event], count: int, dice: random.Random) -> list[int]:
    """So many moments, in order: anywhere; about a sort of event, the rare as often as others; after a write."""
    sorts: defaultdict[tuple[Kind, str], list[int]] = defaultdict(list)
    for at, event in enumerate(events):
        sorts[event.kind, event.path].append(at)
    pick = (
        lambda: dice.randrange(len(events)),
        lambda: dice.choice(dice.choice(list(sorts.values()))) + dice.randint(-1, 3),
        lambda: dice.choice(sorts[Kind.MARK, ""]) + 1,
    )
    return sorted(min(max(0, dice.choice(pick)()), len(events)) for _ in range(count))


def findings(
    events: Sequence[Event], count: int, seed: str, directory: Path, durability: str = "full"
) -> Iterator[Finding]:
    """What is wrong with so many images of power cuts in a record, for who opens them with this durability.

    They are made below `directory`; the first with something wrong stays there as `wrong`, as it was before it was opened.
    """
    disk, ledger, done = Disk(), Ledger(), 0
    image, wrong = directory / "image", directory / "wrong"
    for number, cut in enumerate(cuts(events, count, random.Random(seed))):
        for event in events[done:cut]:
            (ledger if event.kind is Kind.MARK else disk).take(event)
        done = cut
        disk.cut(image, random.Random(f"{seed} {number}"))
        found = judged(image / STORE, ledger, durability)
        shutil.rmtree(image)
        if found and not wrong.exists():
            disk.cut(wrong, random.Random(f"{seed} {number}"))
        for kind, what in found:
            yield Finding(kind, cut, f"{seed} {number}", what)


def judged(store: Path, ledger: Ledger, durability: str) -> list[tuple[Wrong, str]]:
    """What is wrong with a store in which this should be."""
    try:
        found = _looked_at(store, ledger, durability)
        with ProcedureCache(None, store, fast(durability=durability)) as cache:
            for lane in ledger.lanes():
                wrong = ledger.judge(lane, seen(cache.storage(procedure_of(lane)), lane))
                found += [wrong] if wrong else []
            status = cache.status()
            if status.store_problem or status.parked or status.conflicts:
                found.append((Wrong.BROKEN, f"status: {status}"))
            storage = cache.storage("a-1")
            do(storage, "a-1", _AFTERWARDS)
            after = seen(storage, "a-1")
        with ProcedureCache(None, store, fast(durability=durability)) as cache:
            if seen(cache.storage("a-1"), "a-1") != after:
                found.append((Wrong.BROKEN, "what is written afterwards does not stay"))
    except StorageError as error:
        return [(Wrong.BROKEN, f"{type(error).__name__}: {error}")]
    return found


def _looked_at(store: Path, ledger: Ledger, durability: str) -> list[tuple[Wrong, str]]:
    """What is wrong with what `status` and `ls` see, before anybody writes there."""
    try:
        with ProcedureCache(None, store, fast(durability=durability), read_only=True) as cache:
            there, status = {one.procedure_id for one in cache.procedures()}, cache.status()
    except StoreReadOnly as error:  # there is no store; which is right until something is acknowledged
        return [(Wrong.LOST, str(error))] if ledger.acknowledged else []
    missing = {procedure_of(lane) for lane in ledger.acknowledged} - there
    found = [(Wrong.LOST, f"{one} is not listed") for one in sorted(missing)]
    return found + ([(Wrong.BROKEN, str(status.store_problem))] if status.store_problem else [])
