"""Rows: nothing is evicted, nothing is pickled, nothing is half written, and every error is one of ours."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diskcache
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plexus_tactus_cache.errors import CacheCorrupted, StoreReadOnly
from plexus_tactus_cache.store.local.directory import DATABASE
from plexus_tactus_cache.store.local.lock import LOCK_NAME, TURNSTILE_NAME
from plexus_tactus_cache.store.local.marker import MARKER
from plexus_tactus_cache.store.local.rows import STORE, Rows
from store.on_rows import MEGABYTE, in_thread, open_rows, put, put_all, tamper

FILES = {MARKER, DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", LOCK_NAME, TURNSTILE_NAME}


def pragma(rows: Rows, name: str) -> Any:
    """What is set on the connection of this thread."""
    return rows.database.connection().execute(f"PRAGMA {name}").fetchone()[0]


def eviction(directory: Path) -> tuple[str, int, int, int]:
    """What any opener of the directory does with its rows: policy, how many at once, statistics, from which size on."""
    with diskcache.Cache(str(directory)) as opener:
        return opener.eviction_policy, opener.cull_limit, opener.statistics, opener.size_limit


# --- nothing is lost --------------------------------------------------------------------------------------


def test_a_row_is_there_for_others_when_the_write_returned(rows: Rows, directory: Path) -> None:
    put(rows, "a", b"1")
    other = open_rows(directory)
    assert other.read_row("a") == b"1"
    assert in_thread(lambda: rows.read_row("a")) == b"1"
    other.close()


@pytest.mark.parametrize("size", [0, 1, 32 * 1024, MEGABYTE, 20 * MEGABYTE])
def test_a_value_of_any_size_stays_in_the_database_file(rows: Rows, directory: Path, size: int) -> None:
    payload = os.urandom(size)
    put(rows, "big", payload)
    assert rows.read_row("big") == payload
    assert {path.name for path in directory.rglob("*")} <= FILES


def test_nothing_is_evicted(rows: Rows, directory: Path) -> None:
    put_all(rows, {f"many/{number:04}": os.urandom(20_000) for number in range(200)})
    with diskcache.Cache(str(directory)) as opener:
        opener.cull()
        opener.expire()
    assert len(rows.scan("many/")) == 200
    rows.close()
    again = open_rows(directory)
    assert len(again.scan("many/")) == 200
    again.close()
    policy, at_once, statistics, size = eviction(directory)
    assert (policy, at_once, statistics) == ("none", 0, 0)
    assert size > 2**60


def test_another_opener_cannot_weaken_the_store(rows: Rows, directory: Path) -> None:
    put(rows, "a", b"1")
    weak = diskcache.Cache(
        str(directory),
        eviction_policy="least-recently-used",
        cull_limit=10,
        size_limit=1000,
        sqlite_synchronous=0,
        disk_min_file_size=10,
    )
    weak.close()

    def write_in_a_new_thread() -> tuple[int, str]:
        put(rows, "b", os.urandom(MEGABYTE))
        return pragma(rows, "synchronous"), pragma(rows, "journal_mode")

    assert in_thread(write_in_a_new_thread) == (2, "wal")
    again = open_rows(directory)
    assert pragma(again, "synchronous") == 2
    assert eviction(directory)[0] == "none"
    put_all(again, {f"c/{number}": os.urandom(1000) for number in range(30)})
    again.close()
    assert len(rows.scan("c/")) == 30
    assert not list(directory.rglob("*.val"))
    assert rows.read_row("a") == b"1"


@pytest.mark.parametrize(("durability", "level"), [("full", 2), ("normal", 1)])
def test_durability_holds_on_the_connection_of_every_thread(directory: Path, durability: str, level: int) -> None:
    rows = open_rows(directory, durability)
    assert pragma(rows, "synchronous") == level
    assert in_thread(lambda: pragma(rows, "synchronous")) == level
    assert pragma(rows, "synchronous") == level
    rows.release_thread()
    assert pragma(rows, "synchronous") == level  # opened again on use
    assert pragma(rows, "journal_mode") == "wal"
    rows.close()


def test_only_the_owner_may_look(rows: Rows, directory: Path) -> None:
    put(rows, "a")
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {path.name for path in directory.iterdir()} == FILES
    assert {stat.S_IMODE(file.stat().st_mode) for file in directory.iterdir()} == {0o600}


def test_only_the_owner_may_look_after_everything_was_reopened(rows: Rows, directory: Path) -> None:
    put(rows, "a")
    rows.release_thread()
    put(rows, "a")
    assert {path.name for path in directory.iterdir()} == FILES
    assert {stat.S_IMODE(file.stat().st_mode) for file in directory.iterdir()} == {0o600}


# --- rows and ranges --------------------------------------------------------------------------------------


def test_rows_replace_and_vanish(rows: Rows) -> None:
    put(rows, "a", b"1")
    put(rows, "a", b"2")
    assert rows.read_row("a") == b"2"
    for _ in range(2):
        rows.transaction(lambda: rows.delete_row("a"))
        assert rows.read_row("a") is None


@pytest.mark.parametrize(
    "write",
    [
        lambda rows: rows.write_row("a", b"2"),
        lambda rows: rows.delete_row("a"),
        lambda rows: rows.delete_rows(["a"]),
        lambda rows: rows.delete_range("a"),
    ],
    ids=["write_row", "delete_row", "delete_rows", "delete_range"],
)
def test_what_is_written_outside_of_a_transaction_is_refused(rows: Rows, write: Callable[[Rows], None]) -> None:
    put(rows, "a", b"1")
    with pytest.raises(RuntimeError, match="outside of a transaction"):
        write(rows)
    with pytest.raises(RuntimeError, match="outside of a transaction"):
        rows.snapshot(lambda: write(rows))
    with pytest.raises(RuntimeError, match="cannot begin inside a snapshot"):
        rows.snapshot(lambda: rows.transaction(lambda: write(rows)))
    assert in_thread(lambda: rows.read_row("a")) == b"1"
    rows.transaction(lambda: write(rows))
    assert in_thread(lambda: rows.read_row("a")) != b"1"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=4),
        max_size=8,
        unique=True,
    ),
    st.sampled_from(["p/", "log/a/", "é/", "p/x/", "0"]),
    st.text("0123ab/", max_size=2),
)
def test_a_scan_returns_what_starts_with_the_prefix(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], prefix: str, start: str
) -> None:
    rows = _shared_rows(tmp_path_factory)
    everything = {key for name in names for key in (name, prefix + name, f"{prefix[:-1]}{name}", f"p{name}")}

    def fill() -> None:
        rows.database.execute("DELETE FROM Cache WHERE key <> ?", (STORE,))
        for key in everything:
            rows.write_row(key, key.encode())

    rows.transaction(fill)
    wanted = sorted(key for key in everything if key.startswith(prefix) and key >= prefix + start)
    assert rows.scan(prefix, start) == [(key[len(prefix) :], key.encode()) for key in wanted]
    assert rows.keys(prefix, start) == [key[len(prefix) :] for key in wanted]
    rows.transaction(lambda: rows.delete_range(prefix, start))
    assert rows.scan(prefix, start) == []
    left = {key for key in everything if key not in wanted}
    assert {key for key in everything if rows.read_row(key) is not None} == left


_kept: list[Rows] = []


def _shared_rows(factory: pytest.TempPathFactory) -> Rows:
    if not _kept:
        _kept.append(open_rows(factory.mktemp("shared") / "store", "normal"))
    return _kept[0]


@pytest.mark.parametrize("key", [1, b"a", None, ("a",)])
def test_keys_are_text(rows: Rows, key: Any) -> None:
    with pytest.raises(TypeError):
        rows.transaction(lambda: rows.write_row(key, b""))


@pytest.mark.parametrize("value", ["text", 1, None, {}])
def test_values_are_bytes(rows: Rows, value: Any) -> None:
    with pytest.raises(TypeError):
        rows.transaction(lambda: rows.write_row("a", value))
    assert rows.read_row("a") is None


# --- damage -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE Cache SET value = zeroblob(length(value)) WHERE key = 'b'",
        "UPDATE Cache SET value = substr(value, 1, length(value) - 1) WHERE key = 'b'",
        "UPDATE Cache SET value = x'' WHERE key = 'b'",
        "UPDATE Cache SET value = x'0102' WHERE key = 'b'",
        "UPDATE Cache SET value = (SELECT value FROM Cache WHERE key = 'a') WHERE key = 'b'",
        "UPDATE Cache SET value = NULL WHERE key = 'b'",
        "UPDATE Cache SET value = 'text' WHERE key = 'b'",
        "UPDATE Cache SET value = 5 WHERE key = 'b'",
        "UPDATE Cache SET mode = 4 WHERE key = 'b'",
        "UPDATE Cache SET mode = 2, filename = '../../../etc/passwd', value = NULL WHERE key = 'b'",
        "UPDATE Cache SET filename = 'x.val' WHERE key = 'b'",
    ],
)
def test_a_damaged_row_is_named_and_the_others_are_readable(rows: Rows, directory: Path, damage: str) -> None:
    for key in "abc":
        put(rows, key, key.encode() * 50)
    assert tamper(directory, damage) == 1
    with pytest.raises(CacheCorrupted, match="'b'"):
        rows.read_row("b")
    with pytest.raises(CacheCorrupted, match="'b'"):
        rows.scan("b")
    assert rows.read_row("a") == b"a" * 50
    assert rows.scan("c") == [("", b"c" * 50)]
    put(rows, "b", b"new")
    assert rows.read_row("b") == b"new"


def test_a_file_that_is_no_database(directory: Path) -> None:
    directory.mkdir()
    (directory / DATABASE).write_bytes(b"this is not a database, whatever its name says. " * 100)
    with pytest.raises(CacheCorrupted, match=str(directory)):
        open_rows(directory)


def test_a_damaged_page(rows: Rows, directory: Path) -> None:
    put_all(rows, {f"k/{number:04}": os.urandom(500) for number in range(200)})
    rows.close()
    database = directory / DATABASE
    content = bytearray(database.read_bytes())
    for page in range(8, len(content) // 4096):
        content[page * 4096 : page * 4096 + 64] = os.urandom(64)
    database.write_bytes(content)
    with pytest.raises(CacheCorrupted):
        open_rows(directory).scan("k/")


def test_a_file_in_place_of_the_directory(directory: Path) -> None:
    directory.write_text("I was here first")
    with pytest.raises(StoreReadOnly, match="not a directory"):
        open_rows(directory)
    with pytest.raises(StoreReadOnly):
        open_rows(directory / "below")
    assert directory.read_text() == "I was here first"
