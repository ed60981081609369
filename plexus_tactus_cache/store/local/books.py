"""Bookkeeping: what syncing remembers of each document, its objects in S3, and traces.

| row                        | holds                                                                         |
|----------------------------|-------------------------------------------------------------------------------|
| `base/<id>`                | what Plexus last confirmed, or showed                                         |
| `history/<id>`             | what its record was before, or may have become (lineage.py)                   |
| `old/<id>/<part>/<key>`    | what a locally changed key was when Plexus last confirmed it                  |
| `create/<id>`              | a procedure created here that Plexus has not confirmed: the fields of its record |
| `uploads/<id>`             | our objects in S3 that the record, or a push without an answer, may refer to  |
| `garbage/<due>/<id>/<key>` | those that nothing refers to any more, by when they may be deleted            |
| `inline/<id>`              | how many bytes the record has room for, where that is less than usual         |
| `run/<id>`, `breakpoints/<name>` | traces                                                                  |
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote

import orjson

from plexus_tactus_cache.document.encoded import Changes, Part, unpack
from plexus_tactus_cache.store.local.parts import OnRows, quoted


class BookRows(OnRows):
    """The books of a local store; see Bookkeeping, Garbage and TraceTable in contract.py."""

    # --- of one document ----------------------------------------------------------------------------------

    def base(self, procedure_id: str) -> Any:
        return self._json(f"base/{quoted(procedure_id)}")

    def put_base(self, procedure_id: str, base: Any) -> None:
        self._put(procedure_id, "base", orjson.dumps(base))

    def history(self, procedure_id: str) -> Any:
        return self._json(f"history/{quoted(procedure_id)}") or []

    def keep_old(self, procedure_id: str, changes: Changes) -> None:
        """Before keys change for the first time since a push: keep what Plexus has, for the conflict journal."""
        name = quoted(procedure_id)
        for part, values in (("state", changes.state), ("lua", changes.lua_state)):
            for key in map(quoted, values):
                if self.rows.checksum_of(f"old/{name}/{part}/{key}") is None:
                    current = self.rows.read_row(f"{part}/{name}/{key}")
                    if current is not None:
                        self._put(procedure_id, "old", current, f"{part}/{key}", fresh=True)

    def old(self, procedure_id: str) -> dict[str, Part]:
        name = quoted(procedure_id)
        return {"state": self._part("old", f"{name}/state"), "lua_state": self._part("old", f"{name}/lua")}

    def forget_old(self, procedure_id: str) -> None:
        self._drop_from(procedure_id, "old")

    def creation(self, procedure_id: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self._json(f"create/{quoted(procedure_id)}")
        return found

    def put_creation(self, procedure_id: str, fields: dict[str, Any]) -> None:
        self._put(procedure_id, "create", orjson.dumps(fields))

    def drop_creation(self, procedure_id: str) -> None:
        self._drop(procedure_id, "create")

    def put_history(self, procedure_id: str, history: Any) -> None:
        if history:
            self._put(procedure_id, "history", orjson.dumps(history))
        else:
            self._drop(procedure_id, "history")

    def _part(self, part: str, name: str) -> Part:
        return {unquote(key): unpack(payload) for key, payload in self.rows.scan(f"{part}/{name}/")}

    def uploads(self, procedure_id: str) -> dict[str, str]:
        return self._json(f"uploads/{quoted(procedure_id)}") or {}

    def put_uploads(self, procedure_id: str, uploads: dict[str, str]) -> None:
        if uploads:
            self._put(procedure_id, "uploads", orjson.dumps(uploads))
        else:
            self._drop(procedure_id, "uploads")

    def inline_limit(self, procedure_id: str) -> int | None:
        found: int | None = self._json(f"inline/{quoted(procedure_id)}")
        return found

    def put_inline_limit(self, procedure_id: str, limit: int) -> None:
        self._put(procedure_id, "inline", orjson.dumps(limit))

    # --- objects in S3 that nothing refers to -------------------------------------------------------------

    def put_garbage(self, procedure_id: str, keys: Iterable[str], due: float) -> None:
        for row in [f"garbage/{due:020.3f}/{quoted(procedure_id)}/{quoted(key)}" for key in keys]:
            self.rows.write_row(row, b"")

    def garbage_due(self) -> float | None:
        first = self.rows.first("garbage/")
        return None if first is None else float(first.split("/")[0])

    def garbage(self, now: float) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for row in self.rows.keys("garbage/"):
            due, procedure_id, key = row.split("/")
            if float(due) > now:
                break
            found.setdefault(unquote(procedure_id), []).append(unquote(key))
        return found

    def drop_garbage(self, procedure_id: str, keys: Iterable[str]) -> None:
        gone = {f"{quoted(procedure_id)}/{quoted(key)}" for key in keys}
        rows = [row for row in self.rows.keys("garbage/") if row.partition("/")[2] in gone]
        self.rows.delete_rows(f"garbage/{row}" for row in rows)

    # --- traces -------------------------------------------------------------------------------------------

    def trace(self, kind: str, name: str) -> bytes | None:
        return self.rows.read_row(f"{kind}/{quoted(name)}")

    def traces(self, kind: str) -> list[bytes]:
        found = {unquote(name): payload for name, payload in self._scan_what_is_whole(f"{kind}/")}
        return [found[name] for name in sorted(found)]

    def put_trace(self, kind: str, name: str, payload: bytes) -> None:
        self.rows.write_row(f"{kind}/{quoted(name)}", payload)
