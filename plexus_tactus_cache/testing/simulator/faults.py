"""Which fault meets which request."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, get_args

Kind = Literal["mutation", "query"]


@dataclass(frozen=True)
class FaultKind:
    """A fault that can be switched on: what it does in a few words, and the parameters of its own."""

    description: str
    needs: frozenset[str] = frozenset()
    takes: frozenset[str] = frozenset()
    counted: bool = True
    """Whether it takes `times` and `only`; not if it closes the port: no request arrives to be counted or looked at."""

    @property
    def own(self) -> frozenset[str]:
        """The names of all parameters of its own."""
        return self.needs | self.takes

    @property
    def parameters(self) -> dict[str, str]:
        """Every parameter that it takes, and what that means."""
        own = {name: f"{PARAMETERS[name]}{'; needed' if name in self.needs else ''}" for name in sorted(self.own)}
        return own | ({name: PARAMETERS[name] for name in ("times", "only")} if self.counted else {})


PARAMETERS: Mapping[str, str] = {
    "seconds": "how long",
    "code": "the HTTP status, 300 to 599; without it 503",
    "retry_after": "seconds, for the header Retry-After; without it 1, and null leaves the header out",
    "times": "how many requests meet it; without it every one, until it is healed",
    "only": "'mutation' or 'query': which requests meet it; without it both do",
}

FAULTS: Mapping[str, FaultKind] = MappingProxyType(
    {
        "refuse": FaultKind("the port is closed: connections are cut and refused until it is healed", counted=False),
        "outage": FaultKind("as refuse, and it ends by itself", needs=frozenset({"seconds"}), counted=False),
        "hang": FaultKind("the request is taken, and never answered or applied"),
        "delay": FaultKind("the answer takes longer, whatever it is", needs=frozenset({"seconds"})),
        "status": FaultKind("an HTTP error in place of an answer", takes=frozenset({"code"})),
        "throttle_429": FaultKind("too many requests, as HTTP 429", takes=frozenset({"retry_after"})),
        "throttle_200": FaultKind("too many requests, as an error of each field under HTTP 200"),
        "drop_before": FaultKind("the connection is cut without an answer, and nothing was applied"),
        "drop_after": FaultKind("the connection is cut without an answer, and all was applied"),
        "html": FaultKind("a captive portal: a web page in place of an answer"),
        "redirect": FaultKind("a captive portal: a redirect to its web page"),
        "expired_key": FaultKind("the key is refused, with HTTP 401"),
        "stale": FaultKind("a read of one record answers what it was before its last write"),
    }
)
"""The faults by name."""

_MODIFIERS = frozenset({"delay", "stale"})  # these let the request through to whatever else is switched on


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
    kind = FAULTS.get(name)
    if kind is None:
        raise ValueError(f"unknown fault {name!r}; known: {', '.join(FAULTS)}")
    if unknown := sorted(params.keys() - kind.own):
        allowed = ", ".join(sorted(kind.own)) or "none"
        raise ValueError(f"fault {name!r} has no parameter {', '.join(unknown)}; it takes: {allowed}")
    for needed in sorted(kind.needs):
        if params.get(needed) is None:
            raise ValueError(f"fault {name!r} needs {needed}=")
    if only is not None and only not in get_args(Kind):
        raise ValueError(f"only={only!r}: want 'mutation' or 'query'")
    if times is not None and (isinstance(times, bool) or not isinstance(times, int) or times < 1):
        raise ValueError(f"times={times!r}: want a positive number, or None for until cleared")
    if not kind.counted and (times is not None or only is not None):
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
                fault=self._take(kind, FAULTS.keys() - _MODIFIERS),
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
