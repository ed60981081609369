"""Documents that are never stored: those of procedures that come with Plexus."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from plexus_tactus_cache.document.encoded import Document
from plexus_tactus_cache.document.plain import Encoded
from plexus_tactus_cache.store.contract import Header
from plexus_tactus_cache.store.live_object import LiveDocument


class MemoryDocuments:
    """Documents that live and die with one adapter: those of `builtin:` procedures (plexus-facts.md §6).

    As `Documents`, without a store.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._live: dict[str, LiveDocument] = {}

    def _of(self, procedure_id: str) -> LiveDocument:
        if procedure_id not in self._live:
            self._live[procedure_id] = LiveDocument.load(procedure_id, Header(), Document())
        return self._live[procedure_id]

    def load(self, procedure_id: str) -> Any:
        with self._lock:
            return self._of(procedure_id).metadata

    def state(self, procedure_id: str) -> dict[str, Any]:
        with self._lock:
            state: dict[str, Any] = self._of(procedure_id).metadata.state
            return state

    def find(self, procedure_id: str, name: str) -> Any | None:
        with self._lock:
            live = self._of(procedure_id)
            position = live.position_of(name)
            return None if position is None else live.metadata.execution_log[position]

    def save(self, procedure_id: str, metadata: Any) -> None:
        with self._lock:
            if self._of(procedure_id).metadata is not metadata:
                self._live[procedure_id] = LiveDocument(metadata)
            self._acknowledge(procedure_id)

    def edit(self, procedure_id: str, change: Callable[[LiveDocument], None]) -> None:
        with self._lock:
            change(self._of(procedure_id))
            self._acknowledge(procedure_id)

    def set_status(self, procedure_id: str, status: str, waiting_on_message_id: str | None) -> None:
        with self._lock:
            self._of(procedure_id).note_status(status, waiting_on_message_id)

    def set_state_key(self, procedure_id: str, key: Any, value: Any, encoded: Encoded | None) -> None:
        with self._lock:
            self._of(procedure_id).note_state(key, value, encoded)

    def _acknowledge(self, procedure_id: str) -> None:
        """Values become what a store would give back; what it could not keep is refused alike."""
        live = self._of(procedure_id)
        live.acknowledge(live.delta(), Header(log_length=len(live.metadata.execution_log)))
