"""What a writer did, step by step: done to a storage, and said of a model that is a few dicts and lists.

A *lane* is what one thread alone writes: a procedure, or in a shared one the keys of the state that begin with its name
("shared/a"). So what is in a lane is known after every step, whatever other threads do.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

from plexus_tactus_cache import CheckpointEntry, PlexusStorageAdapter

SHARED = "shared/"
_SIZES = (10, 300, 5_000, 20_000)  # bytes of a value: in a page, a whole one, several


class Step(NamedTuple):
    """One public write."""

    act: str
    arguments: list[Any]


class Picture(NamedTuple):
    """All of a lane: entries as (name, result, captured_vars), state, lua_state, (status, message)."""

    log: list[Any]
    state: dict[str, Any]
    lua: dict[str, Any]
    status: list[Any]


def empty() -> Picture:
    """Of a lane that nothing was written in."""
    return Picture([], {}, {}, ["RUNNING", None])


def procedure_of(lane: str) -> str:
    """The procedure that a lane is in."""
    return "shared" if lane.startswith(SHARED) else lane


def seen(storage: PlexusStorageAdapter, lane: str) -> Picture:
    """What a storage says is in a lane."""
    live = storage.load_procedure_metadata(procedure_of(lane))
    if lane.startswith(SHARED):
        mine = lane.removeprefix(SHARED)
        return empty()._replace(state={key: value for key, value in live.state.items() if key.startswith(mine)})
    log = [[getattr(entry, "name", None), entry.result, entry.captured_vars] for entry in live.execution_log]
    return Picture(log, dict(live.state), dict(live.lua_state), [live.status, live.waiting_on_message_id])


def steps(lane: str, dice: random.Random) -> Iterator[Step]:
    """An endless sequence for a lane."""
    number = 0
    while True:
        number += 1
        value = f"{lane} {number} " + dice.choice("xyz") * dice.choice(_SIZES)
        key, name = f"key {dice.randrange(8)}", f"name {dice.randrange(6)}"
        if lane.startswith(SHARED):
            mine = f"{lane.removeprefix(SHARED)} {dice.randrange(4)}"
            yield dice.choice([Step("state_set", [mine, value]), Step("state_delete", [mine])])
            continue
        (found,) = dice.choices(
            [
                Step("run", [value, key, number]),
                Step("checkpoint_save", [name, value]),
                Step("state_set", [key, value]),
                Step("state_delete", [key]),
                Step("set_state", [{key: value, "number": number}]),
                Step("state_clear", []),
                Step("update_procedure_status", [dice.choice(["RUNNING", "WAITING"]), dice.choice([None, "message"])]),
                Step("checkpoint_clear_after", [name]),
                Step("checkpoint_clear_all", []),
            ],
            weights=[30, 12, 20, 3, 3, 1, 4, 3, 1],
        )
        yield found


def do(storage: PlexusStorageAdapter, lane: str, step: Step) -> None:
    """The step, by the public API."""
    procedure_id = procedure_of(lane)
    if step.act != "run":
        getattr(storage, step.act)(procedure_id, *step.arguments)
        return
    result, key, number = step.arguments  # all of it in one save, as a runtime does
    live = storage.load_procedure_metadata(procedure_id)
    position = len(live.execution_log)
    at = dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=number)
    live.execution_log.append(
        CheckpointEntry(
            position=position, type="agent_turn", result=result, timestamp=at, captured_vars={"n": number, "same": key}
        )
    )
    live.replay_index = position + 1
    live.state[key] = number
    live.lua_state[key] = [number, result[:2_000]]
    storage.save_procedure_metadata(procedure_id, live)


def say(picture: Picture, step: Step) -> Picture:
    """What the step makes of it."""
    match step.act, step.arguments:
        case "run", [result, key, number]:
            entry = [None, result, {"n": number, "same": key}]
            return picture._replace(
                log=[*picture.log, entry],
                state={**picture.state, key: number},
                lua={**picture.lua, key: [number, result[:2_000]]},
            )
        case "checkpoint_save", [name, result]:
            found, log = [entry[0] for entry in picture.log], list(picture.log)
            if name in found:
                log[found.index(name)] = [name, result, None]
            else:
                log.append([name, result, None])
            return picture._replace(log=log)
        case "state_set", [key, value]:
            return picture._replace(state={**picture.state, key: value})
        case "state_delete", [key]:
            return picture._replace(state={one: value for one, value in picture.state.items() if one != key})
        case "set_state", [state]:
            return picture._replace(state=dict(state))
        case "state_clear", []:
            return picture._replace(state={})
        case "update_procedure_status", [status, message]:
            return picture._replace(status=[status, message])
        case "checkpoint_clear_after", [name]:
            found = [entry[0] for entry in picture.log]
            return picture._replace(log=picture.log[: found.index(name) if name in found else len(found)])
        case "checkpoint_clear_all", []:
            return picture._replace(log=[])
    raise ValueError(step)
