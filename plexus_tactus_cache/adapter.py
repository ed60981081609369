"""PlexusStorageAdapter: the Tactus StorageBackend of one procedure, a drop-in for Plexus's class of this name."""

from __future__ import annotations

import datetime as dt
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from plexus_tactus_cache.document import checks
from plexus_tactus_cache.document.encoding import encode
from plexus_tactus_cache.document.models import NamedCheckpoint, ProcedureMetadata, is_builtin
from plexus_tactus_cache.errors import RemoteUnavailable, ValueNotSerializable
from plexus_tactus_cache.remote.client import GraphQLClient, Offline, client_or_none, endpoint_of
from plexus_tactus_cache.settings import CacheSettings, default_directory
from plexus_tactus_cache.store.edits import CutLog, PutCheckpoint, ReplaceState
from plexus_tactus_cache.store.local import chosen
from plexus_tactus_cache.store.memory import MemoryDocuments
from plexus_tactus_cache.store.traces import Traces

if TYPE_CHECKING:
    from plexus_tactus_cache.cache import ProcedureCache
    from plexus_tactus_cache.store.documents import Documents
    from plexus_tactus_cache.store.live_object import Edit


class PlexusStorageAdapter:
    """Stores checkpoints, state and status of procedures locally, and in Plexus as soon as it can be reached.

    Every method takes a procedure id, as Tactus's protocol wants; they need not be the adapter's own. Those that start
    with `builtin:` live in this adapter's memory only. No method
    waits for the network, but for the first one that touches a procedure, and that at most `load_timeout`
    (plexus_tactus_cache.settings). When a write returns, it survives a power cut.

    All of them raise InvalidArgument (WrongType for a type) for an argument that could not be stored, before anything
    is changed; CacheClosed after the cache was closed, LocalStoreError when the local store fails. Those that write
    raise ValueNotSerializable, and store nothing, for a value that would not come back as it was.
    """

    def __init__(
        self,
        client: GraphQLClient | Offline | None,
        procedure_id: str,
        *,
        directory: str | os.PathLike[str] | None = None,
        settings: CacheSettings | None = None,
    ) -> None:
        """Use this process's one cache for `directory` (arguments as for ProcedureCache)."""
        procedure_id = checks.procedure_id(procedure_id)
        self._begin(shared_cache(client, directory, settings), procedure_id)

    @classmethod
    def _on(cls, cache: ProcedureCache, procedure_id: str) -> PlexusStorageAdapter:
        adapter = cls.__new__(cls)
        adapter._begin(cache, checks.procedure_id(procedure_id))
        return adapter

    def _begin(self, cache: ProcedureCache, procedure_id: str) -> None:
        self._cache = cache
        self.procedure_id = procedure_id
        self._introduced: set[str] = set()
        self._memory = MemoryDocuments()
        self._object: Any = None  # see `_hold`

    def _documents(self, procedure_id: str) -> Documents | MemoryDocuments:
        """The documents, with Plexus asked once about this one, whose id was checked. Raises CacheClosed."""
        self._cache.check_open()
        if is_builtin(procedure_id):
            return self._memory
        if procedure_id not in self._introduced:
            try:
                self._cache.revalidate(procedure_id)
            except RemoteUnavailable:
                if self._cache.documents.held(procedure_id) is None:
                    raise  # else this process has it
            self._introduced.add(procedure_id)
        return self._cache.documents

    # --- whole documents ----------------------------------------------------------------------------------

    def load_procedure_metadata(self, procedure_id: str) -> ProcedureMetadata:
        """The live object of this process: change it and save it. All callers get the same one.

        Raises RemoteUnavailable if the procedure is not stored here, Plexus is out of reach and `on_unreachable`
        is `raise`.
        """
        procedure_id = checks.procedure_id(procedure_id)
        documents = self._documents(procedure_id)
        metadata = documents.load(procedure_id)
        self._hold(documents, procedure_id)
        return cast(ProcedureMetadata, metadata)

    def save_procedure_metadata(self, procedure_id: Any = None, metadata: Any = None) -> None:
        """Store `metadata`: `(procedure_id, metadata)` as Tactus calls it, or `(metadata)` as Plexus does.

        Both may be given by name.

        An object from `load_procedure_metadata` is compared with what it last saw, and what changed is stored;
        one that the caller built replaces the document. Raises RunSuperseded when the log was changed elsewhere
        in a way that this object's log does not go on from.
        """
        if metadata is None:
            metadata, procedure_id = procedure_id, None
        checks.metadata(metadata)
        if procedure_id is None:
            procedure_id = checks.procedure_id(metadata.procedure_id, "metadata.procedure_id")
        procedure_id = checks.procedure_id(procedure_id)
        self._documents(procedure_id).save(procedure_id, metadata)

    def update_procedure_status(self, procedure_id: str, status: str, waiting_on_message_id: str | None = None) -> None:
        """Set the status, and the message that it waits for (None: for none)."""
        procedure_id, status = checks.procedure_id(procedure_id), checks.status(status)
        waiting_on_message_id = checks.waiting_on_message_id(waiting_on_message_id)
        self._documents(procedure_id).set_status(procedure_id, status, waiting_on_message_id)

    # --- state --------------------------------------------------------------------------------------------

    def get_state(self, procedure_id: str) -> dict[str, Any]:
        """The live state; what is changed in it in place is stored with the next save of the whole object."""
        procedure_id = checks.procedure_id(procedure_id)
        documents = self._documents(procedure_id)
        state = documents.state(procedure_id)
        self._hold(documents, procedure_id)
        return state

    def set_state(self, procedure_id: str, state: dict[str, Any]) -> None:
        """Replace the whole state."""
        procedure_id = checks.procedure_id(procedure_id)
        values = {
            checks.state_key(key, "a key of state"): value for key, value in checks.mapping(state, "state").items()
        }
        try:
            edit = ReplaceState({key: (value, encode(value)) for key, value in values.items()})
        except ValueNotSerializable:
            _check(state, "state")  # it says where in the whole
            raise
        self._edit(procedure_id, edit)

    def state_get(self, procedure_id: str, key: str, default: Any = None) -> Any:
        """The value of one key."""
        key = checks.state_key(key)
        return self.get_state(procedure_id).get(key, default)

    def state_set(self, procedure_id: str, key: str, value: Any) -> None:
        """Store one key; other keys are not touched, whoever changed them."""
        procedure_id, key = checks.procedure_id(procedure_id), checks.state_key(key)
        encoded = _check(value, f"state key {key!r}")
        self._documents(procedure_id).set_state_key(procedure_id, key, value, encoded)

    def state_delete(self, procedure_id: str, key: str) -> None:
        """Delete one key; an unknown one is fine."""
        procedure_id, key = checks.procedure_id(procedure_id), checks.state_key(key)
        self._documents(procedure_id).set_state_key(procedure_id, key, None, None)

    def state_clear(self, procedure_id: str) -> None:
        """Delete all state; checkpoints stay."""
        self.set_state(procedure_id, {})

    # --- Tactus's debugger: kept in this directory, never pushed -------------------------------------------

    def save_run(self, run: Any) -> None:
        """Keep an ExecutionRun of Tactus, in place of the one with its id."""
        checks.run(run)
        self._traces().save_run(run)

    def load_run(self, run_id: str) -> Any:
        """The ExecutionRun of that id. Raises RunNotFound, which is a FileNotFoundError too."""
        return self._traces().load_run(checks.text(run_id, "run_id"))

    def list_runs(self, procedure_name: str | None = None) -> list[Any]:
        """All runs, or those of the procedure of that name, the newest first."""
        return self._traces().list_runs(checks.optional_text(procedure_name, "procedure_name"))

    def save_breakpoints(self, procedure_name: str, breakpoints: list[Any]) -> None:
        """Keep these in place of the procedure's."""
        procedure_name = checks.text(procedure_name, "procedure_name")
        self._traces().save_breakpoints(procedure_name, checks.sequence(breakpoints, "breakpoints"))

    def load_breakpoints(self, procedure_name: str) -> list[Any]:
        """Those of the procedure of that name; none if none were saved."""
        return self._traces().load_breakpoints(checks.text(procedure_name, "procedure_name"))

    def _traces(self) -> Traces:
        self._cache.check_open()
        return self._cache.traces

    # --- checkpoints by name ------------------------------------------------------------------------------

    def checkpoint_save(self, procedure_id: str, name: str, result: Any) -> None:
        """Store `result` under `name`: at the end of the log, or in place of the entry of that name."""
        procedure_id, name = checks.procedure_id(procedure_id), checks.text(name, "name")
        _check(result, f"the result of checkpoint {name!r}")

        def make(position: int) -> NamedCheckpoint:
            now = dt.datetime.now(dt.UTC)
            return NamedCheckpoint(position=position, type="checkpoint", result=result, timestamp=now, name=name)

        self._edit(procedure_id, PutCheckpoint(name, make))

    def checkpoint_get(self, procedure_id: str, name: str) -> Any | None:
        """The result stored under `name`, or under a key such as `000012:agent_turn`; None if there is none."""
        entry = self._find(procedure_id, name)
        return None if entry is None else entry.result

    def checkpoint_exists(self, procedure_id: str, name: str) -> bool:
        """Whether there is an entry that `checkpoint_get` finds."""
        return self._find(procedure_id, name) is not None

    def _find(self, procedure_id: str, name: str) -> Any | None:
        procedure_id, name = checks.procedure_id(procedure_id), checks.text(name, "name")
        documents = self._documents(procedure_id)
        entry = documents.find(procedure_id, name)
        self._hold(documents, procedure_id)
        return entry

    def checkpoint_clear_all(self, procedure_id: str) -> None:
        """Forget the whole log; state stays."""
        self._edit(checks.procedure_id(procedure_id), CutLog(lambda live: 0))

    def checkpoint_clear_after(self, procedure_id: str, name: str) -> None:
        """Forget the entry `name` and all after it; an unknown name is fine."""
        procedure_id, name = checks.procedure_id(procedure_id), checks.text(name, "name")
        self._edit(procedure_id, CutLog(lambda live: live.position_of(name)))

    def _edit(self, procedure_id: str, edit: Edit) -> None:
        documents = self._documents(procedure_id)
        documents.edit(procedure_id, edit)
        self._hold(documents, procedure_id)

    def _hold(self, documents: Documents | MemoryDocuments, procedure_id: str) -> None:
        """The live object of the adapter's procedure lives as long as the adapter, whoever else holds it."""
        if procedure_id == self.procedure_id:
            self._object = documents.held(procedure_id)


def _check(value: Any, where: str) -> Any:
    """`value` encoded, before anything is changed."""
    try:
        return encode(value)
    except ValueNotSerializable as error:
        raise error.inside(where) from None


# --- one cache per directory and process ------------------------------------------------------------------

_shared: dict[tuple[Path, bool], ProcedureCache] = {}  # the bool: with a client; OFFLINE never gets one that has
_shared_lock = threading.Lock()


def shared_cache(
    client: GraphQLClient | Offline | None, directory: str | os.PathLike[str] | None, settings: CacheSettings | None
) -> ProcedureCache:
    """This process's cache for `directory`, opened on first use and closed at exit; one more if some have no client."""
    from plexus_tactus_cache.cache import ProcedureCache  # the cache hands out adapters, so it imports this module

    found_client = client_or_none(client, settings or CacheSettings())
    path = chosen(directory) or default_directory(endpoint_of(found_client))
    key = path.absolute(), found_client is not None
    with _shared_lock:
        cache = _shared.get(key)
        if cache is None or cache.closed:
            cache = _shared[key] = ProcedureCache(client, key[0], settings)
        return cache


def _after_fork_in_child() -> None:
    global _shared_lock
    _shared_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
