"""What reached the simulator: counters and a log, for assertions and benchmarks."""

import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from plexus_tactus_cache.testing.simulator.document import TopField


@dataclass
class LogEntry:
    """One request; `status` is None while it is served, and stays so when it gets no answer."""

    fields: tuple[TopField, ...]
    fault: str | None = None
    status: int | None = None
    at: float = field(default_factory=time.monotonic)


class Traffic:
    """Counters of what arrived and what left. Bytes are those of the bodies, without HTTP headers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Start again from nothing."""
        with self._lock:
            self.requests = 0
            self.bytes_received = 0
            self.bytes_sent = 0
            self._operations: Counter[str] = Counter()
            self._log: list[LogEntry] = []

    @property
    def operations(self) -> Counter[str]:
        """How often each top-level field was executed."""
        with self._lock:
            return self._operations.copy()

    @property
    def log(self) -> list[LogEntry]:
        """The requests in the order of their arrival."""
        with self._lock:
            return list(self._log)

    def arrived(self, entry: LogEntry, size: int) -> None:
        """Count a request."""
        with self._lock:
            self.requests += 1
            self.bytes_received += size
            self._log.append(entry)

    def executed(self, name: str) -> None:
        """Count a top-level field."""
        with self._lock:
            self._operations[name] += 1

    def answered(self, entry: LogEntry, status: int, size: int) -> None:
        """Count an answer, before it is sent: whoever holds the answer finds it counted."""
        with self._lock:
            entry.status = status
            self.bytes_sent += size
