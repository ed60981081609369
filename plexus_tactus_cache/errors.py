"""The errors a caller can meet, as one tree.

StorageError
├── ProcedureNotFound       neither the local store nor Plexus knows this procedure
├── InvalidArgument         (also a ValueError) an argument that means nothing, or that no store could keep
│   └── WrongType           (also a TypeError) an argument of a type that it cannot have
├── ValueNotSerializable    (also a TypeError) a value that no store could keep; names the path inside it
├── LocalStoreError         the local directory cannot be used; nothing was acknowledged
│   ├── StoreReadOnly       it cannot be written
│   ├── StoreFull           the disk is full
│   ├── OutOfResources      the process has no file descriptors, or no threads, left; it may well have some again
│   ├── StoreBusy           another process held the write lock for too long
│   ├── CacheCorrupted      what is stored does not match its checksum
│   └── EndpointMismatch    the directory belongs to another API endpoint
├── LeaseLost               another process syncs the store now
├── CacheClosed             the cache was closed
├── ConflictNotFound        the conflict journal has no such record
├── ConflictOutdated        a log tail cannot be restored: what was before it has changed
├── StillNeeded             a procedure is not forgotten: Plexus does not have all of it, or a person has to decide
├── InvalidClient           (also a ValueError) an API URL or key that no request is sent with
├── RemoteUnavailable       Plexus was needed for this call and did not answer
├── RunSuperseded           the document's log went another way; this run must not go on
├── RunNotFound             (also a FileNotFoundError) no run of this id was saved here
└── ReplayDiverged          the procedure asks for another checkpoint than the log has at this position
"""

from __future__ import annotations

from plexus_tactus_cache.printable import printable


class StorageError(Exception):
    """Root of every error that this package raises on purpose. Its text is one line that is safe to print."""

    def __str__(self) -> str:
        return printable(super().__str__())


class ProcedureNotFound(StorageError):
    """Neither the local store nor Plexus knows the procedure."""

    def __init__(self, procedure_id: str, advice: str = "") -> None:
        self.procedure_id = procedure_id
        super().__init__(f"procedure {procedure_id!r} was not found" + (f": {advice}" if advice else ""))


class InvalidArgument(StorageError, ValueError):
    """An argument means nothing, or could not be stored; nothing was changed.

    The text names the argument, or the part of it that is to blame, and says what is wanted; never what it holds.
    """

    def __init__(self, argument: str, problem: str) -> None:
        self.argument = argument
        self.problem = problem
        super().__init__(f"{argument}: {problem}")

    def inside(self, where: str) -> InvalidArgument:
        """The same error, saying of what the argument is a part."""
        return type(self)(f"{where}.{self.argument}", self.problem)


class WrongType(InvalidArgument, TypeError):
    """An argument is of a type that it cannot have; nothing was changed."""


class ValueNotSerializable(StorageError, TypeError):
    """A value cannot be stored exactly; nothing was written.

    `path` leads from the value that was handed over to the part of it that is to blame, as a JSON Pointer
    (RFC 6901), the empty string being the whole value.
    """

    def __init__(self, path: str, problem: str, *, where: str = "value") -> None:
        self.path = path
        self.problem = problem
        self.where = where
        super().__init__(f"{where} cannot be stored: at {path or 'its root'!r}: {problem}")

    def inside(self, where: str) -> ValueNotSerializable:
        """The same error, saying which value of the document it was."""
        return ValueNotSerializable(self.path, self.problem, where=where)


class LocalStoreError(StorageError):
    """The local store cannot do what was asked; the write was not acknowledged."""


class StoreReadOnly(LocalStoreError):
    """The directory or its database cannot be written."""


class StoreFull(LocalStoreError):
    """The disk is full; what was acknowledged before is safe."""


class OutOfResources(LocalStoreError):
    """This process, or the machine, has no file descriptors or no threads left; nothing is wrong with the store."""


class StoreBusy(LocalStoreError):
    """Another process held the write lock longer than we wait."""


class CacheCorrupted(LocalStoreError):
    """A row does not match its checksum, or the database is damaged."""


class EndpointMismatch(LocalStoreError):
    """The directory belongs to another API endpoint: staging and production never mix."""


class LeaseLost(StorageError):
    """Another process took the right to sync the store: what this one was about to note of it was not stored."""


class CacheClosed(StorageError):
    """The cache was closed; open a new one on the same directory to go on."""


class ConflictNotFound(StorageError):
    """The conflict journal has no record with that id."""


class ConflictOutdated(StorageError):
    """The set-aside tail of a log does not go on from what the log is now; it stays in the journal."""


class StillNeeded(StorageError):
    """A procedure is not forgotten: it has something that Plexus lacks, or that a person has to decide about."""

    def __init__(self, procedure_id: str, why: str) -> None:
        self.procedure_id = procedure_id
        super().__init__(
            f"procedure {procedure_id!r} is not forgotten: {why}; `sync` or `resolve` first, or discard what it has"
        )


class InvalidClient(StorageError, ValueError):
    """The API URL or the key is not one that a request is sent with."""


class RemoteUnavailable(StorageError):
    """Plexus was needed for this call and could not be reached in time."""


class RunSuperseded(StorageError):
    """The stored log went another way than the log of the object being saved; this run must not go on."""


class RunNotFound(StorageError, FileNotFoundError):
    """No run of this id was saved in this directory; Tactus's FileStorage raises a FileNotFoundError."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        super().__init__(f"run {run_id!r} was not saved here")


class ReplayDiverged(StorageError):
    """A resumed procedure asks for another kind of checkpoint than the log has at that position.

    Its source, or something that it depends on outside of checkpoints, changed since the run began.
    """

    def __init__(self, position: int, stored: str, asked: str) -> None:
        self.position = position
        super().__init__(
            f"checkpoint {position} of this run is a {stored!r}, and the procedure now asks for a {asked!r} there: "
            "its source changed since the run began. Start a new run, or go back to the source it began with"
        )
