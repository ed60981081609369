"""What a store is: the contract that the local store keeps, and any other that takes its place.

`Documents`, the sync engine and the conflict journal know a store by these protocols only. tests/store/ has a suite
that every store passes.

What holds for every method:

- **Errors.** What comes out is a LocalStoreError or one of its subclasses, a LeaseLost or a CacheClosed; for arguments
  that cannot be stored a TypeError (a key that is no text, a value that is no JSON) or an InvalidArgument (half a
  character in a key). When a method raised, nothing of what it was to change is changed, also where that is caught.
- **Names.** Any other text is an id, a key or a name, of any length, and no two of them are the same.
- **Values** come back as they were: numbers, the order of keys, what is empty or None. Who changes what was handed over
  or returned changes nothing in the store. Inside a transaction every method sees what it wrote so far.
- **Threads.** Any thread may call any method. What a thread needs for itself (a connection) it gets at its first call
  and gives back with `release_thread`, or when it ends.
- **Forks.** After a fork both processes go on; what cannot be shared is opened anew in the child. A fork waits until no
  other thread is in the middle of a call. One by a signal handler in the middle of a call waits for nobody, and in the
  child every method raises. A lease stays with the parent.
- **Close.** `close` may be called twice, and while other threads use the store: those get a CacheClosed or
  finish; who waits for another writer gets it at once. Nothing that was acknowledged depends on it. Afterwards
  everything that looks at the store or changes it, or waits for it, raises CacheClosed, and its lease is as that of a
  dead process. Other openers of the same store, in this process too, do not notice.
- **Damage** of one document raises CacheCorrupted, naming it, for that document. Others are not affected, and lists of
  all have it among them.

Times are seconds since the epoch, unless said otherwise; a store may keep, and compare, them to the millisecond.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from plexus_tactus_cache.document.encoded import Changes, Document, Part
from plexus_tactus_cache.reconcile.journal import ConflictRecord

Result = TypeVar("Result")
Side = Literal["local", "remote"]

LEASE_SECONDS = 15.0  # without a beat, a lease may be taken from its holder


class Header(NamedTuple):
    """What is known of a document without reading it."""

    version: int = 0  # raised by every local change
    pushed: int = 0  # the version that Plexus has
    log_version: int = 0  # the version at which the log last changed, and nothing else does
    log_length: int = 0
    replay_index: int = 0
    status: str | None = None
    waiting_on_message_id: str | None = None
    queued: bool = False  # whether it is in the outbox
    swept: int = 0  # raised when captured variables were deleted
    cancelled: list[str] | None = None  # Plexus's CANCELLED was adopted: the runs that it ended
    held: list[str | None] | None = None  # the status, with its message, that such a run set since

    @property
    def dirty(self) -> bool:
        return self.version > self.pushed


class Pending(NamedTuple):
    """Why and when a document of the outbox will be pushed."""

    since: float  # when it became dirty; 0: nobody knows any more
    due: float = 0.0  # not before; see `Outbox.due`
    attempts: int = 0
    parked: str | None = None  # why it waits for a person
    error: str | None = None
    reread: bool = False  # the record moved: read it before the next push
    doubtful_since: float | None = None  # reads say that the record is older than we know it, or gone
    fork: Side | None = None  # how a person decided about a log that went two ways
    look: bool = False  # Plexus has all of it, and its record is looked at once more

    @property
    def moment(self) -> float:
        """Not before it will it be pushed."""
        return max(self.since, self.due)

    def again(self) -> Pending:
        """To be tried now, from the beginning: the record is read first."""
        return self._replace(parked=None, attempts=0, due=0.0, error=None, reread=True, doubtful_since=None, look=False)


class Link(NamedTuple):
    """What the last exchanges with Plexus said about the connection."""

    state: str = "unknown"  # unknown, online, offline, throttled, unauthorized
    problem: str | None = None
    attempts: int = 0
    due: float = 0.0
    told_to_wait: bool = False  # `due` comes from Retry-After
    last_success: float | None = None
    credentials: str | None = None  # fingerprint of those that were refused


class Leader(NamedTuple):
    """Who holds the lease: `who` names a process for a person; `beat` is its last sign of life."""

    who: str  # the process, for a person
    since: float
    generation: int
    beat: float = 0.0  # its last sign of life


class Lease(Protocol):
    """The right to sync a store, from `Store.lease`."""

    @property
    def generation(self) -> int:
        """Raised each time that the lease is taken."""

    def beat(self) -> bool:
        """Say that the holder is alive, every `LEASE_SECONDS` / 3: False when it lost the lease. No durable write."""

    def release(self) -> None:
        """Give it back at once. Twice is fine, and so is one that was lost: it takes nothing from a later holder."""


class Wakeups(Protocol):
    """News for one waiting thread, from `Store.wakeups`."""

    def wait(self, seconds: float) -> bool:
        """Wait for news, for that long at most: True when there may be some; it may wake for nothing.

        News: any opener of the store queued a document, or posted a request. Of other processes: within a second.
        """

    def set(self) -> None:
        """End the wait, now or the next one."""


class Transactions(Protocol):
    """All or nothing, durable when it returns."""

    def transaction(
        self, procedure_ids: str | Collection[str], work: Callable[[], Result], *, lease: Lease | None = None
    ) -> Result:
        """What `work()` returns, once all that it wrote is durable.

        - Whatever is raised, by `work`, by a signal handler at any moment, by the disk: nothing is written, and
          nothing stays open. The exception comes out as it is.
        - Writers of one document come one after the other, in all processes; those of different documents may too.
          `work` sees the newest version of the documents `procedure_ids`, and writes no other document. The
          journal, requests, garbage and the link may be written in any transaction.
        - One inside another of the same thread is part of it, and names none that the outer one does not. Its failure
          undoes nothing where the outer one catches it. Where an error of the store is caught, all of the rest is
          written, or the transaction raises.
        - `work` may be called again, where a store has to begin anew (a serialization failure): what it
          changes besides the store comes out the same when it is done again.
        - What is not written in a transaction is refused with a RuntimeError. (`park`, `update_pending` and `bind` are
          transactions of their own where there is none.)

        Raises StoreBusy, naming the process that writes, when others write for longer than the store waits; StoreFull,
        StoreReadOnly; LeaseLost when `lease` is not the newest, was released, or is a parent's.
        """

    def snapshot(self, work: Callable[[], Result]) -> Result:
        """What `work()` returns; its reads see one state of the store, and block nobody.

        Inside a transaction, or another snapshot, it is part of that. No transaction begins in it: RuntimeError.
        """


class DocumentTable(Protocol):
    """The documents themselves."""

    def header(self, procedure_id: str) -> Header | None:
        """The header, or None for a procedure that is not stored."""

    def unknown(self) -> Header:
        """The header of a procedure that is not stored: above the versions of all that were forgotten."""

    def headers(self) -> dict[str, Header | str]:
        """Those of all stored procedures, or, of one that is damaged, what is wrong with it. Costs one walk."""

    def procedure_ids(self) -> list[str]:
        """All stored procedures, in the order of their ids as text."""

    def read(self, procedure_id: str, *, log: bool = True) -> tuple[Header, Document] | None:
        """The whole document (or, without `log`, all but its log) as it is at one moment; or None."""

    def write(self, procedure_id: str, changes: Changes, now: float, delay: float = 0.0) -> Header:
        """Apply a change made here: raises the version and queues the document for a push, `delay` seconds from now.

        One that has a place in the outbox, a parked one too, keeps it. For `merge` and `adopt` as well: entries come
        first, then the cut, which is none where the log is shorter; what `changes` does not name stays.
        """

    def merge(self, procedure_id: str, changes: Changes, runs: Iterable[str], now: float) -> Header:
        """Apply what a merge, or a person, decided about a document that has to be pushed.

        `runs`: the run ids in the log as it was here, for a CANCELLED that comes with it.
        """

    def adopt(self, procedure_id: str, changes: Changes, runs: Iterable[str]) -> Header:
        """Apply a change that came from Plexus: it is clean then, a parked one too. `runs`: as for `merge`."""

    def sweep(self, procedure_id: str) -> Header | None:
        """Free what replaced entries left behind: reads the whole log. A write that cuts the log may do so too."""

    def forget(self, procedure_id: str, *, token: str | None = None) -> None:
        """Delete all of a document, however damaged; its garbage and conflicts stay. Should it come back, its versions
        go on above those it had. One that is not stored is fine. `token`: see `forgotten`."""

    def forgotten(self, procedure_id: str) -> str | None:
        """The token with which a document was forgotten that Plexus has; None for one that is stored, or never was."""

    def idle(self, before: float) -> list[str]:
        """Clean documents that were last written before that moment, in seconds since the epoch, by their own time."""

    def recover(self, now: float) -> list[str]:
        """Put in order what can be derived from the rest (a place in the outbox): what was wrong, in words, and what
        is and cannot be mended. Reads all headers; for whoever begins to sync."""

    def put_header(self, procedure_id: str, header: Header) -> None:
        """Replace the header as it is."""


class Outbox(Protocol):
    """The documents that are dirty or parked; clean ones are not visited."""

    def pending(self, procedure_id: str) -> Pending | None:
        """Its place in the outbox, or None. For a damaged one: a place, with the record to be read again."""

    def due(self, until: float, after: float | None = None) -> list[str]:
        """Those that are not parked and whose `Pending.moment` is at most `until`, the earliest first.

        With `after`, then those whose moment lies further off than that: a clock jumped. Nobody twice; whatever a clock
        said, `due(math.inf)` has all that are not parked. Costs what it returns.
        """

    def next_due(self) -> float | None:
        """The earliest moment of all that are not parked, at the cost of one look."""

    def outbox(self) -> dict[str, Pending]:
        """All of it, parked ones too, by procedure; each as `pending` has it."""

    def put_pending(self, procedure_id: str, pending: Pending) -> None:
        """Give it this place; `Header.queued` follows, here as below."""

    def drop_pending(self, procedure_id: str) -> None: ...

    def update_pending(self, procedure_id: str, now: float, **changes: Any) -> None:
        """Change these fields of its place, to None too; of one since `now` where it had none."""

    def park(self, procedure_id: str, reason: str, now: float) -> None:
        """Leave the document as it is until a person has done something about `reason`."""


class Bookkeeping(Protocol):
    """What syncing remembers of one document, as JSON. One that is not stored is from then on, empty."""

    def base(self, procedure_id: str) -> Any:
        """What Plexus last confirmed; None before it did."""

    def put_base(self, procedure_id: str, base: Any) -> None: ...

    def history(self, procedure_id: str) -> Any:
        """What its record was, or may have become; [] while nothing is remembered."""

    def put_history(self, procedure_id: str, history: Any) -> None: ...

    def old(self, procedure_id: str) -> dict[str, Part]:
        """What keys of `state` and `lua_state` were before they were changed here; some may be newer than the base."""

    def forget_old(self, procedure_id: str) -> None: ...

    def creation(self, procedure_id: str) -> dict[str, Any] | None:
        """The fields of a record that is still to be created; None for any other procedure."""

    def put_creation(self, procedure_id: str, fields: dict[str, Any]) -> None: ...

    def drop_creation(self, procedure_id: str) -> None: ...

    def uploads(self, procedure_id: str) -> dict[str, str]:
        """Our objects in S3 by key: the digest of what they hold, empty until the upload is known to be complete."""

    def put_uploads(self, procedure_id: str, uploads: dict[str, str]) -> None: ...

    def inline_limit(self, procedure_id: str) -> int | None:
        """Bytes that the record was found to have room for; None: as usual."""

    def put_inline_limit(self, procedure_id: str, limit: int) -> None: ...


class Garbage(Protocol):
    """Objects in S3 that nothing refers to any more."""

    def put_garbage(self, procedure_id: str, keys: Iterable[str], due: float) -> None: ...

    def garbage_due(self) -> float | None:
        """When the first object may be deleted; None while there is none."""

    def garbage(self, now: float) -> dict[str, list[str]]:
        """The keys that are due at `now` or before, by procedure."""

    def drop_garbage(self, procedure_id: str, keys: Iterable[str]) -> None: ...


class Journal(Protocol):
    """The conflict journal."""

    def conflicts(self, *, resolved: bool = False, procedure_id: str | None = None) -> dict[int, ConflictRecord]:
        """The open conflicts, or those that were resolved, by number; of all documents, or of one."""

    def conflict(self, number: int) -> ConflictRecord | None:
        """The one of that number, open or resolved."""

    def open_conflicts(self) -> int:
        """How many there are, without reading them."""

    def put_conflict(self, record: ConflictRecord, number: int | None = None) -> int:
        """Store a conflict in place of that of `number`, or under a new number, above all there were: which it is.
        One that differs from an open one in nothing but `at` is that one, and gets no new number."""


class TraceTable(Protocol):
    """What is kept for Tactus's debugger, as bytes by kind and name."""

    def trace(self, kind: str, name: str) -> bytes | None: ...

    def traces(self, kind: str) -> list[bytes]:
        """All of one kind, by name."""

    def put_trace(self, kind: str, name: str, payload: bytes) -> None: ...


class Coordination(Protocol):
    """What the processes on one store tell each other."""

    def lease(self, who: str) -> Lease | None:
        """The right to sync, if it is free or can be taken; else None, to be asked again now and then.

        Taken at once from a holder that is dead, and after LEASE_SECONDS without a beat from one that is stopped or
        stuck; that is noticed only by a store that asks all the while, on a clock that does not jump.
        """

    def leader(self) -> Leader | None:
        """Who holds the lease; None while nobody does. One that died may be named until the lease is taken."""

    def wakeups(self) -> Wakeups:
        """News for one thread."""

    def link(self) -> Link: ...

    def put_link(self, link: Link) -> None: ...

    def requests(self) -> list[str]:
        """Foreground passes that other processes wait for."""

    def put_request(self, name: str) -> None: ...

    def drop_request(self, name: str) -> None: ...


class Store(Transactions, DocumentTable, Outbox, Bookkeeping, Garbage, Journal, TraceTable, Coordination, Protocol):
    """A store of documents, for any number of threads and processes."""

    @property
    def location(self) -> str:
        """Where it is, for a person; no secrets."""

    @property
    def size(self) -> int:
        """Bytes that it takes."""

    def tidy(self, seconds: float) -> bool:
        """Give the disk back what deletions freed, for so long: whether there is more. Leaves the way to writers."""

    def writer(self) -> int | None:
        """The process that is writing now, as far as the store knows one; a look that waits for nobody."""

    @property
    def store_id(self) -> str:
        """Random, and the same for all openers; empty for an older store that has none yet, and is only looked at."""

    @property
    def read_only(self) -> str | None:
        """Why nothing can be written; None where it can."""

    @property
    def endpoint(self) -> str | None:
        """The API endpoint that the store belongs to; None until it first met one."""

    def check(self, endpoint: str) -> None:
        """Raises EndpointMismatch when the store belongs to another endpoint."""

    def bind(self, endpoint: str) -> None:
        """Give the store to `endpoint`. Raises EndpointMismatch when it has another one."""

    def is_interrupted(self) -> bool:
        """Whether this thread is in the middle of a call: asked in a signal handler."""

    def release_thread(self) -> None:
        """Give back what this thread holds of the store; it is taken again when it is needed."""

    def close(self) -> None:
        """Give everything back."""
