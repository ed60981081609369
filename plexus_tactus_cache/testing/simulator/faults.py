"""Which fault meets which request."""

import threading
from dataclasses import dataclass, field
from typing import Literal, get_args

Kind = Literal["mutation", "query"]

SOCKET_FAULTS = frozenset({"refuse", "outage"})
"""The faults that close the port. No request arrives to be counted or looked at."""

_PARAMS: dict[str, frozenset[str]] = {
    "refuse": frozenset(),
    "outage": frozenset({"seconds"}),
    "hang": frozenset(),
    "delay": frozenset({"seconds"}),
    "status": frozenset({"code"}),
    "throttle_429": frozenset({"retry_after"}),
    "throttle_200": frozenset(),
    "drop_before": frozenset(),
    "drop_after": frozenset(),
    "html": frozenset(),
    "redirect": frozenset(),
    "expired_key": frozenset(),
    "stale": frozenset(),
}
_NEEDED: dict[str, str] = {"outage": "seconds", "delay": "seconds"}
_MODIFIERS = frozenset({"delay", "stale"})  # these let the request through to whatever else is switched on

FAULTS = tuple(_PARAMS)


@dataclass(eq=False)
class Fault:
    """One fault that was switched on; `times` counts down, `cleared` wakes those who wait in it."""

    name: str
    times: int | None = None
    only: Kind | None = None
    seconds: float = 0.0
    code: int = 503
    retry_after: float | None = 1.0
    cleared: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Met:
    """The faults that one request meets."""

    delay: Fault | None = None
    stale: bool = False
    fault: Fault | None = None

    @property
    def name(self) -> str | None:
        """The fault as it stands in the log: the one that matters most."""
        if self.fault is not None:
            return self.fault.name
        return "stale" if self.stale else "delay" if self.delay is not None else None


def make_fault(name: str, times: int | None, only: str | None, params: dict[str, float | None]) -> Fault:
    """Build a fault, or raise ValueError that says what is wrong with it."""
    if name not in _PARAMS:
        raise ValueError(f"unknown fault {name!r}; known: {', '.join(FAULTS)}")
    if unknown := sorted(params.keys() - _PARAMS[name]):
        allowed = ", ".join(sorted(_PARAMS[name])) or "none"
        raise ValueError(f"fault {name!r} has no parameter {', '.join(unknown)}; it takes: {allowed}")
    if (needed := _NEEDED.get(name)) is not None and params.get(needed) is None:
        raise ValueError(f"fault {name!r} needs {needed}=")
    if only is not None and only not in get_args(Kind):
        raise ValueError(f"only={only!r}: want 'mutation' or 'query'")
    if times is not None and (isinstance(times, bool) or not isinstance(times, int) or times < 1):
        raise ValueError(f"times={times!r}: want a positive number, or None for until cleared")
    if name in SOCKET_FAULTS and (times is not None or only is not None):
        raise ValueError(f"fault {name!r} takes neither times= nor only=: no request arrives to be counted")
    fault = Fault(name, times, "mutation" if only == "mutation" else "query" if only else None)
    fault.seconds = _number(params, "seconds", 0.0) or 0.0
    fault.retry_after = _number(params, "retry_after", 1.0)
    code = _number(params, "code", 503)
    if code is None or code != int(code) or not 300 <= code <= 599:
        raise ValueError(f"code={code!r}: want an HTTP status from 300 to 599")
    fault.code = int(code)
    return fault


class FaultBoard:
    """The faults that are on.

    Counted ones are used up first, in the order they were given; then the latest of the endless ones serves.
    `delay` and `stale` combine with one other fault.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._healed = threading.Event()

    def add(self, fault: Fault) -> None:
        """Switch a fault on."""
        with self._lock:
            # Shared by all until the next clear(): one that is used up may still have requests waiting in it.
            fault.cleared = self._healed
            self._faults.append(fault)

    def clear(self) -> None:
        """Switch every fault off and wake the requests that wait in one."""
        with self._lock:
            self._faults = []
            self._healed.set()
            self._healed = threading.Event()

    def meet(self, kind: Kind, *, reads_record: bool) -> Met:
        """Return what a request of this kind meets, and count it."""
        with self._lock:
            stale = self._take(kind, {"stale"}) if reads_record else None
            return Met(
                delay=self._take(kind, {"delay"}),
                stale=stale is not None,
                fault=self._take(kind, _PARAMS.keys() - _MODIFIERS),
            )

    def _take(self, kind: Kind, names: set[str]) -> Fault | None:
        matching = [fault for fault in self._faults if fault.name in names and fault.only in (None, kind)]
        counted = [fault for fault in matching if fault.times is not None]
        if not counted:
            return matching[-1] if matching else None
        fault = counted[0]
        fault.times = (fault.times or 0) - 1
        if fault.times == 0:
            self._faults.remove(fault)
        return fault


def _number(params: dict[str, float | None], name: str, default: float) -> float | None:
    value = params.get(name, default)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value < 0):
        raise ValueError(f"{name}={value!r}: want a number that is not negative")
    return value
