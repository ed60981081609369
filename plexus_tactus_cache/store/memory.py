"""Documents that are never stored: those of procedures that come with Plexus."""

from __future__ import annotations

import threading
import weakref
from typing import Any

from plexus_tactus_cache.document.encoded import Document
from plexus_tactus_cache.document.plain import Encoded
from plexus_tactus_cache.store.at_once import Call
from plexus_tactus_cache.store.contract import Header
from plexus_tactus_cache.store.live_object import Delta, Edit, LiveDocument


class MemoryDocuments:
    """Documents that live and die with one adapter: those of `builtin:` procedures (plexus-facts.md §6).

    As `Documents`, without a store.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._live: dict[str, tuple[LiveDocument, Any]] = {}

    def _of(self, procedure_id: str) -> tuple[LiveDocument, Any]:
        if procedure_id not in self._live:
            self._live[procedure_id] = LiveDocument.load(procedure_id, Header(), Document())
        return self._live[procedure_id]

    def held(self, procedure_id: str) -> Any | None:
        return None  # they are held here

    def load(self, procedure_id: str) -> Any:
        with self._lock:
            return self._of(procedure_id)[1]

    def state(self, procedure_id: str) -> dict[str, Any]:
        with self._lock:
            state: dict[str, Any] = self._of(procedure_id)[1].state
            return state

    def find(self, procedure_id: str, name: str) -> Any | None:
        with self._lock:
            live, metadata = self._of(procedure_id)
            position = live.position_of(name)
            return None if position is None else metadata.execution_log[position]

    def save(self, procedure_id: str, metadata: Any) -> None:
        with self._lock:
            live, known = self._of(procedure_id)
            if known is not metadata:
                live = LiveDocument(weakref.ref(metadata))
            self._acknowledge(live, live.delta())  # values become what a store would give back, or are refused
            self._live[procedure_id] = live, metadata

    def edit(self, procedure_id: str, edit: Edit) -> None:
        with self._lock:
            live, _ = self._of(procedure_id)
            delta = edit.extend(live, live.delta())
            self._acknowledge(live, delta, *edit.show(live))

    def set_status(self, procedure_id: str, status: str, waiting_on_message_id: str | None) -> None:
        with self._lock:
            self._of(procedure_id)[0].note_status(status, waiting_on_message_id)

    def set_state_key(self, procedure_id: str, key: Any, value: Any, encoded: Encoded | None) -> None:
        with self._lock:
            self._of(procedure_id)[0].note_state(key, value, encoded)

    @staticmethod
    def _acknowledge(live: LiveDocument, delta: Delta, *calls: Call) -> None:
        live.acknowledge(delta, Header(log_length=len(live.metadata.execution_log)), *calls)
