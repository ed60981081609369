"""Recovery: what is wrong with the rows of a store, and what of it can be derived from the others."""

from __future__ import annotations

from functools import partial
from urllib.parse import unquote

from plexus_tactus_cache.errors import CacheCorrupted
from plexus_tactus_cache.store.contract import Header, Pending
from plexus_tactus_cache.store.local.outbox import OutboxRows
from plexus_tactus_cache.store.local.parts import LOG, REST


class RecoveryRows(OutboxRows):
    """See DocumentTable.recover in contract.py."""

    def recover(self, now: float) -> list[str]:
        lost, found = self.misplaced()
        for procedure_id in lost:
            try:
                if self.transaction(procedure_id, partial(self._queue_again, procedure_id, now)):
                    found.append(f"procedure {procedure_id!r} had lost its place in the outbox, and has it again")
            except CacheCorrupted as error:
                found.append(str(error))
        return [*found, *self.missing()]

    def misplaced(self) -> tuple[list[str], list[str]]:
        """The documents that have lost their place in the outbox; what is wrong with other headers, in words."""
        lost, wrong = [], []
        queued = set(self.rows.keys("outbox/"))
        placed = {key.partition("/")[2] for key in self.rows.keys("due/")}
        for name in self.rows.keys("doc/"):
            procedure_id = unquote(name)
            try:
                header = self.header(procedure_id)
                if name in queued:
                    pending = None if name in placed else self.pending(procedure_id)
                    is_lost = pending is not None and pending.parked is None
                else:
                    is_lost = header is not None and (header.queued or header.dirty)
                if is_lost:
                    lost.append(procedure_id)
            except CacheCorrupted as error:
                wrong.append(str(error))
        return lost, wrong

    def _queue_again(self, procedure_id: str, now: float) -> bool:
        """False where that is not needed any more."""
        header, pending = self.header(procedure_id) or Header(), self.pending(procedure_id)
        if pending is None and not (header.queued or header.dirty):
            return False
        if pending is not None and (pending.parked is not None or self._is_placed(procedure_id, pending)):
            return False
        self.drop_pending(procedure_id)
        self.put_pending(procedure_id, pending or Pending(since=now, reread=True))
        return True

    def missing(self) -> list[str]:
        """Documents of which nothing is left, or no header: what their number says, and the rows that they left."""
        names = self.rows.keys("doc/")
        headless = {name for kind in (*LOG, *REST) for name in self._names(kind)}.difference(names)
        found = [f"the header of procedure {unquote(name)!r} is missing from the store" for name in sorted(headless)]
        there = self._documents_there()
        noted = self._documents_noted() or there
        if there != noted and noted[0] - there[0] != len(headless):
            found.append(f"the store had {noted[0]} procedures and has {there[0]}: rows are missing, or are not ours")
        return found

    def _names(self, kind: str) -> set[str]:
        """The documents that have rows of a kind."""
        found = set()
        key = self.rows.first(f"{kind}/")
        while key is not None:  # from document to document, not from row to row
            name = key.partition("/")[0]
            found.add(name)
            key = next(iter(self.rows.keys(f"{kind}/", start=f"{name}0", limit=1)), None)
        return found
