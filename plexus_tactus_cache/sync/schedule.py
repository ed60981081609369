"""Schedule: when to talk to Plexus, and what the last exchanges said about the connection.

What one document meets delays that document; what the connection meets delays everything, and the first success
lifts it. Both are stored, so that a restart does not hammer, and stored times are never trusted far: clocks jump.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import backoff

from plexus_tactus_cache.remote.failures import Failure, FailureClass
from plexus_tactus_cache.settings import CacheSettings
from plexus_tactus_cache.store.contract import Lease, Link, Store

log = logging.getLogger("plexus_tactus_cache")

THROTTLED_FACTOR = 4  # times longer than after an ordinary failure
UNAUTHORIZED_FACTOR = 5  # times `max_backoff`, until a refused key is tried again
LONGEST_RETRY_AFTER = 3600.0  # seconds; longer ones are more likely a mistake
MOST_DOUBLINGS = 32


class Schedule:
    """Times are seconds since the epoch.

    Args:
        credentials: fingerprint of those in use; a refusal counts only for the same ones.
        jitter: makes a random delay, in seconds, out of the longest one.
    """

    def __init__(
        self, store: Store, settings: CacheSettings, credentials: str, jitter: Callable[[float], float]
    ) -> None:
        self.lease: Lease | None = None  # of the pass under way
        self._store = store
        self._settings = settings
        self._credentials = credentials
        self._jitter = jitter

    def next_due(self, now: float) -> float | None:
        """When something will have to be done; None while nothing waits."""
        due, garbage = self._store.next_due(), self._store.garbage_due()
        times = [] if due is None else [_believed(due, now, self._farthest)]
        if garbage is not None:
            times.append(garbage)
        return max(min(times), self._link_due(self._store.link(), now)) if times else None

    def due(self, now: float) -> list[str]:
        """The documents that may travel, the earliest first: writes coalesce for `push_interval`."""
        return self._store.due(now, now + self._farthest)

    @property
    def _farthest(self) -> float:
        """Seconds from now that a document is ever made to wait."""
        return max(self._settings.max_backoff, self._settings.push_interval)

    def blocked(self, now: float, *, force: bool) -> bool:
        """Whether the connection has to be left alone; `force` stops short of a Retry-After only."""
        link = self._store.link()
        return self._link_due(link, now) > now and (link.told_to_wait or not force)

    def _link_due(self, link: Link, now: float) -> float:
        if link.state == "unauthorized" and link.credentials != self._credentials:
            return 0.0
        longest = self._settings.max_backoff * UNAUTHORIZED_FACTOR
        return _believed(link.due, now, LONGEST_RETRY_AFTER if link.told_to_wait else longest)

    def delay(self, attempts: int, factor: float = 1.0) -> float:
        """Seconds to wait after so many failures: exponential with full jitter and a cap."""
        delays = backoff.expo(factor=factor, max_value=self._settings.max_backoff * factor)
        next(delays)  # backoff's generators begin with a None
        longest = 0.0
        for _ in range(min(attempts, MOST_DOUBLINGS)):
            longest = next(delays)
        return self._jitter(longest)

    def failed(self, failure: Failure, now: float) -> None:
        """The connection failed: everything waits."""
        before = self._store.link()
        attempts = before.attempts + 1
        if failure.retry_after is not None:
            delay = failure.retry_after
        elif failure.kind is FailureClass.UNAUTHORIZED:
            delay = self._settings.max_backoff * UNAUTHORIZED_FACTOR
        else:
            delay = self.delay(attempts, THROTTLED_FACTOR if failure.kind is FailureClass.THROTTLED else 1.0)
        link = Link(
            state=failure.kind.value,
            problem=failure.message,
            attempts=attempts,
            due=now + delay,
            told_to_wait=failure.retry_after is not None,
            last_success=before.last_success,
            credentials=self._credentials if failure.kind is FailureClass.UNAUTHORIZED else None,
        )
        self._put(link)
        if before.state != link.state:
            level = logging.ERROR if failure.kind is FailureClass.UNAUTHORIZED else logging.WARNING
            words = "Plexus is out of reach (%s: %s); everything is kept and will be pushed later"
            log.log(level, words, link.state, link.problem)

    def succeeded(self, now: float) -> None:
        """Plexus answered; if it did not before, everyone's delay is lifted."""
        before = self._store.link()
        self._put(Link(state="online", last_success=now))
        if before.state in ("online", "unknown"):
            return
        log.warning("Plexus answers again")
        delayed = {
            procedure_id: pending
            for procedure_id, pending in self._store.outbox().items()
            if pending.error is not None and pending.parked is None
        }

        def lift() -> None:
            for procedure_id, pending in delayed.items():
                if self._store.pending(procedure_id) == pending:
                    self._store.put_pending(procedure_id, pending._replace(due=0.0))

        self._store.transaction(delayed.keys(), lift, lease=self.lease)

    def _put(self, link: Link) -> None:
        self._store.transaction((), lambda: self._store.put_link(link), lease=self.lease)


def _believed(due: float, now: float, longest: float) -> float:
    """A stored time; one further off than we ever wait was written by a clock that jumped, so it is now."""
    return due if due <= now + longest else now
