"""`doctor` says what is damaged; `doctor --repair` saves what can be read, and lists the rest."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from helpers import append, client_of, eventually, fast, remote_results, remote_state
from processes import environment

from faults.damaged import DOCUMENTS, Made, damage, fill, make, picture, rows, whose
from plexus_tactus_cache import OFFLINE, CacheCorrupted, LocalStoreError, ProcedureCache, StorageError, StoreReadOnly
from plexus_tactus_cache.cli.main import main
from plexus_tactus_cache.store.local import salvage
from plexus_tactus_cache.store.local.directory import DATABASE, INDEX, JOURNAL, LOG
from plexus_tactus_cache.testing.simulator import Simulator

_PAGE, _LEAF = 4096, 13


@pytest.fixture(scope="module")
def plexus() -> Iterator[Simulator]:
    with Simulator() as running:
        yield running


@pytest.fixture(scope="module")
def made(plexus: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(plexus, tmp_path_factory.mktemp("salvage") / "store")


@pytest.fixture
def damaged(plexus: Simulator, made: Made, tmp_path: Path) -> Path:
    """A copy to damage, and Plexus as it was when the store was made."""
    for name, record in made.records.items():
        plexus.put(name, metadata=record["metadata"], status=record["status"])
    directory = tmp_path / "store"
    shutil.copytree(made.directory, directory)
    return directory


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PLEXUS_API_URL", raising=False)
    monkeypatch.delenv("PLEXUS_API_KEY", raising=False)


def doctor(capsys: pytest.CaptureFixture[str], directory: Path, *options: str) -> tuple[int, Any]:
    capsys.readouterr()
    status = main(["doctor", "--directory", str(directory), "--json", *options])
    output = capsys.readouterr().out
    return status, orjson.loads(output) if output else None


def problems(found: list[dict[str, str]]) -> list[str]:
    return [one["detail"] for one in found if one["level"] in ("problem", "damage")]


def contents(directory: Path) -> dict[str, bytes]:
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()}


@pytest.mark.parametrize("how", ["flipped", "cut short", "deleted"])
def test_every_row_damaged_in_turn_is_found_and_repaired(
    plexus: Simulator, made: Made, tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong: list[str] = []
    for number, key in enumerate(rows(made.directory)):
        directory = tmp_path / str(number)
        shutil.copytree(made.directory, directory)
        damage(directory, key, how)
        for name, record in made.records.items():
            plexus.put(name, metadata=record["metadata"], status=record["status"])
        wrong += [f"{key}: {what}" for what in after_repair(plexus, made, directory, key, capsys)]
        shutil.rmtree(directory)
    assert not wrong, "\n".join(wrong)


def after_repair(
    plexus: Simulator, made: Made, directory: Path, key: str, capsys: pytest.CaptureFixture[str]
) -> Iterator[str]:
    hit = whose(key)
    before = contents(directory)
    status, found = doctor(capsys, directory)
    if contents(directory) != before:
        yield "looking changed something"
    if hit is not None and not key.startswith("due/") and not any(hit in text for text in problems(found)):
        yield f"the doctor does not name {hit}: {problems(found)}"
    if (status != 0) != bool(problems(found)):
        yield f"exit status {status} with {problems(found)}"
    status, report = doctor(capsys, directory, "--repair")
    if report["aside"] is not None and contents(Path(report["aside"]))[DATABASE] != before[DATABASE]:
        yield "the damaged database was not kept as it was"
    if status != int(bool(report["partly"] or report["others"])):
        yield f"exit status {status} with {report}"
    known = {*report["whole"], *report["again"], *report["partly"]}
    if report["aside"] is not None and known != set(DOCUMENTS):
        yield f"not all are accounted for: {report}"
    if set(report["partly"]) - {hit}:
        yield f"others lost something: {report['partly']}"
    after = doctor(capsys, directory)[1]
    if problems(after):
        yield f"still wrong after a repair: {problems(after)}"
    with ProcedureCache(OFFLINE, directory, fast()) as cache:
        for name in set(DOCUMENTS) - set(report["again"]) - set(report["partly"]):
            if picture(cache, name) != made.pictures[name]:
                yield f"{name} is not as it was: {picture(cache, name)}"
    with ProcedureCache(client_of(plexus), directory, fast()) as cache:
        for name in report["again"]:
            if picture(cache, name) != made.pictures[name]:
                yield f"{name} was not read again from Plexus: {picture(cache, name)}"
        if not cache.flush(60):
            yield f"it does not get to Plexus: {[one for one in cache.procedures() if one.dirty]}"
        for name in DOCUMENTS[1:]:
            results = remote_results(plexus, name)
            if results[:3] != made.pictures[name][0][:3]:
                yield f"Plexus's log of {name} was cut short: {results}"
            if name != hit and (results[-1] != "after" or remote_state(plexus, name)["k0"] != "changed"):
                yield f"{name} did not get to Plexus: {results}"


def test_a_log_goes_on_up_to_its_first_hole_and_what_was_beyond_can_be_read(
    made: Made, damaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(damaged, "log/dirty/000000001", "flipped")
    status, report = doctor(capsys, damaged, "--repair")
    assert status == 1
    assert report["partly"]["dirty"] == ["log/dirty/000000001", "its log from position 1 on"]
    with ProcedureCache(OFFLINE, damaged, fast()) as cache:
        results, state, *_ = picture(cache, "dirty")
        assert results == made.pictures["dirty"][0][:1]
        assert state == made.pictures["dirty"][1]
        (conflict,) = (one for one in cache.conflicts() if one.procedure_id == "dirty")
        assert [entry.result for entry in conflict.local] == made.pictures["dirty"][0][2:]
        assert "hole" in conflict.reason
        with pytest.raises(StorageError):
            cache.resolve(conflict.id, keep="local")
        assert picture(cache, "dirty")[0] == results


def test_a_page_that_is_damaged_costs_only_the_rows_that_were_on_it(tmp_path: Path) -> None:
    """Not what SQLite finds by way of it: the first page, roots, inner pages and indexes cost nothing."""
    original, names = tmp_path / "whole", [f"document-{number}" for number in range(4)]
    with ProcedureCache(OFFLINE, original, fast()) as cache:
        for name in names:
            fill(cache, name)
            for number in range(3):
                append(cache.storage(name), f"{number}" * 900)
        append(cache.storage(names[1]), "o" * 9000)
        pictures = {name: picture(cache, name) for name in names}
    whole = (original / DATABASE).read_bytes()
    wrong = []
    for number, at in enumerate(range(0, len(whole), _PAGE)):
        directory, page = tmp_path / str(number), whole[at : at + _PAGE]
        shutil.copytree(original, directory)
        damaged = bytes([number * 7 % 256]) * _PAGE if number % 3 else bytes(_PAGE)
        (directory / DATABASE).write_bytes(whole[:at] + damaged + whole[at + _PAGE :])
        on_it = {name for name in names if name.encode() in page} if page[0] == _LEAF else set()
        on_it |= {names[1]} if page[4:].count(b"o") > _PAGE // 2 else set()
        report = salvage(directory, 1.8e9)
        if report.aside is None:
            continue  # it was not in use
        if set(names) - set(report.whole) - on_it:
            wrong.append(f"page {number + 1} with {on_it}: {report}")
        with ProcedureCache(OFFLINE, directory, fast()) as cache:
            wrong += [f"{name}, page {number + 1}" for name in report.whole if picture(cache, name) != pictures[name]]
        shutil.rmtree(directory)
    assert not wrong, "\n".join(wrong)


def test_what_was_deleted_does_not_come_back(tmp_path: Path) -> None:
    """It is still on the pages that are free."""
    directory = tmp_path / "store"
    with ProcedureCache(OFFLINE, directory, fast()) as cache:
        for name in ("cut", "forgotten", "other"):
            fill(cache, name)
            for number in range(30):
                append(cache.storage(name), f"{number}" * 300)
        storage = cache.storage("cut")
        live = storage.load_procedure_metadata("cut")
        live.execution_log, live.replay_index = [], 0
        storage.save_procedure_metadata("cut", live)
        cache.forget("forgotten", discard=True)
        pictures = {name: picture(cache, name) for name in ("cut", "other")}
    damage(directory, "documents", "flipped")
    with (directory / DATABASE).open("r+b") as written:
        written.write(bytes(_PAGE))  # and nothing says which are free, but for the map of pages
    report = salvage(directory, 1.8e9)
    assert sorted(report.whole) == ["cut", "other"]
    assert not report.partly
    with ProcedureCache(OFFLINE, directory, fast()) as cache:
        assert {name: picture(cache, name) for name in pictures} == pictures


@pytest.mark.parametrize("what", ["gone", "empty", "no database"])
def test_where_nothing_can_be_read_nothing_is_made_of_it(
    damaged: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = damaged / DATABASE
    if what == "gone":
        file.unlink()
    else:
        file.write_bytes(b"" if what == "empty" else b"no database at all " * 1000)
    before = contents(damaged)
    assert main(["doctor", "--directory", str(damaged)]) == 1
    assert main(["doctor", "--directory", str(damaged), "--repair"]) == 1
    assert "nothing can be read" in capsys.readouterr().err
    after = contents(damaged)
    assert {name: after[name] for name in before} == before


def test_the_database_of_another_store_is_not_taken_for_a_damaged_one(damaged: Path, tmp_path: Path) -> None:
    with ProcedureCache(OFFLINE, tmp_path / "other", fast()) as cache:
        fill(cache, "theirs")
    shutil.copy(tmp_path / "other" / DATABASE, damaged / DATABASE)
    with pytest.raises(LocalStoreError, match="which no repair"):
        salvage(damaged, 1.8e9)
    with pytest.raises(CacheCorrupted, match="is that of store"):
        ProcedureCache(OFFLINE, damaged, fast())


def test_a_store_that_is_whole_is_left_alone(damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(damaged)
    assert main(["doctor", "--directory", str(damaged), "--repair"]) == 0
    assert "nothing is damaged" in capsys.readouterr().out
    assert contents(damaged) == before


def test_a_store_that_somebody_syncs_is_not_repaired_under_its_feet(
    plexus: Simulator, damaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ProcedureCache(client_of(plexus), damaged, fast()) as cache:
        eventually(lambda: cache.status().leader)
        damage(damaged, "log/other/000000001", "flipped")
        assert main(["doctor", "--directory", str(damaged), "--repair"]) == 1
        assert "another process syncs" in capsys.readouterr().err
        assert not list(damaged.glob("damaged-*"))


@pytest.mark.parametrize("call", range(1, 9))
def test_a_repair_that_is_killed_anywhere_is_done_by_the_next(
    made: Made, damaged: Path, call: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed before its `call`th change of what is in the directory."""
    damage(damaged, "log/dirty/000000003", "flipped")
    program = f"""
import os, sys
from pathlib import Path
from plexus_tactus_cache.store.local import directory, salvage
keep, left = directory.keep, [{call}]
def killed(place):
    left[0] -= "{damaged}" in str(place)
    if not left[0]:
        os._exit(9)
    keep(place)
directory.keep = killed
salvage(Path({str(damaged)!r}), 1.8e9)
"""
    done = subprocess.run([sys.executable, "-c", program], env=environment(), check=False)
    assert done.returncode in (0, 9)
    doctor(capsys, damaged, "--repair")
    assert not problems(doctor(capsys, damaged)[1])
    assert not list(damaged.glob("repaired-*"))
    with ProcedureCache(OFFLINE, damaged, fast()) as cache:
        assert picture(cache, "other") == made.pictures["other"]
        assert picture(cache, "dirty")[0] == made.pictures["dirty"][0][:3]
    (aside,) = damaged.glob("damaged-*")
    connection = sqlite3.connect(aside / DATABASE)
    assert connection.execute("SELECT count(*) FROM Cache").fetchone()[0] > 0
    connection.close()


def test_the_doctor_asks_plexus_once_and_names_what_is_wrong(
    plexus: Simulator, damaged: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def credentials() -> dict[str, str]:
        (found,) = (one for one in doctor(capsys, damaged)[1] if one["about"] == "credentials")
        return dict(found)

    assert credentials()["level"] == "note"
    monkeypatch.setenv("PLEXUS_API_URL", plexus.url)
    monkeypatch.setenv("PLEXUS_API_KEY", plexus.api_key)
    assert credentials()["level"] == "ok"
    monkeypatch.setenv("PLEXUS_API_KEY", "another")
    assert credentials()["level"] == "problem"
    assert "unauthorized" in credentials()["detail"]
    monkeypatch.setenv("PLEXUS_API_URL", plexus.url + "x")
    assert "belongs to" in credentials()["detail"]


def test_a_row_from_the_future_shows_a_wrong_clock(damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    connection = sqlite3.connect(damaged / DATABASE)
    with connection:
        connection.execute("UPDATE Cache SET store_time = store_time + 86400 WHERE key = 'log/other/000000001'")
    connection.close()
    status, found = doctor(capsys, damaged)
    assert status == 1
    assert any("clock" in text for text in problems(found))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written_is_a_problem(damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged.chmod(0o500)
    try:
        status, found = doctor(capsys, damaged)
        assert status == 1
        assert any("cannot be written" in text for text in problems(found))
        assert main(["doctor", "--directory", str(damaged), "--repair"]) == 0  # nothing is damaged
    finally:
        damaged.chmod(0o700)


@pytest.mark.parametrize("value", [None, b"", b"x", 7, "text"], ids=repr)
@pytest.mark.parametrize("key", ["outbox/dirty", "state/dirty/k0", "doc/dirty", "log/dirty/000000001", "store"])
def test_a_row_that_holds_anything_is_damage_like_any(
    made: Made, damaged: Path, key: str, value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    connection = sqlite3.connect(damaged / DATABASE)
    with connection:
        (found,) = [one for one in rows(damaged) if one.replace("%22", "") == key]
        connection.execute("UPDATE Cache SET value = ? WHERE key = ?", (value, found))
    connection.close()
    status, report = doctor(capsys, damaged)
    assert status == 1
    assert any(key.split("/")[-1] in text or "dirty" in text for text in problems(report))
    if key == "store":
        with pytest.raises(CacheCorrupted, match=r"match its checksum; `plexus-tactus-cache doctor --repair` saves"):
            ProcedureCache(OFFLINE, damaged, fast())
    else:
        with ProcedureCache(OFFLINE, damaged, fast(), read_only=True) as cache:
            age = cache.status().oldest_dirty_age
            assert age is not None
            assert age < 1e6
            assert picture(cache, "other") == made.pictures["other"]
            if not key.startswith("outbox/"):
                with pytest.raises(CacheCorrupted, match=r"other procedures are not affected; .*doctor --repair"):
                    picture(cache, "dirty")
    doctor(capsys, damaged, "--repair")
    assert not problems(doctor(capsys, damaged)[1])
    with ProcedureCache(OFFLINE, damaged, fast()) as cache:
        assert picture(cache, "other") == made.pictures["other"]


def test_a_row_that_has_lost_its_key_is_damage(made: Made, damaged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    connection = sqlite3.connect(damaged / DATABASE)
    with connection:
        connection.execute("UPDATE Cache SET key = NULL WHERE key = 'doc/dirty'")
    connection.close()
    assert any("lost its key" in text for text in problems(doctor(capsys, damaged)[1]))
    assert "dirty" in doctor(capsys, damaged, "--repair")[1]["partly"]
    assert not problems(doctor(capsys, damaged)[1])


@pytest.mark.parametrize("at", [3, 17, 21, 30, 47, 100, 103])
def test_the_header_of_the_database_costs_nothing(
    made: Made, damaged: Path, at: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with (damaged / DATABASE).open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 2]))
    before = contents(damaged)
    try:
        with ProcedureCache(OFFLINE, damaged, fast(), read_only=True) as cache:
            assert picture(cache, "dirty") == made.pictures["dirty"]
        assert contents(damaged) == before
        return  # that byte means nothing
    except CacheCorrupted as error:
        said = str(error)
    assert "doctor --repair" in said
    assert len(doctor(capsys, damaged, "--repair")[1]["whole"]) == len(DOCUMENTS)
    with ProcedureCache(OFFLINE, damaged, fast()) as cache:
        assert {name: picture(cache, name) for name in DOCUMENTS} == made.pictures


def test_a_store_without_the_row_that_names_it_is_repaired(
    made: Made, damaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(damaged, "store", "deleted")
    with pytest.raises(CacheCorrupted, match=r"which store it is: .*doctor --repair"):
        ProcedureCache(OFFLINE, damaged, fast())
    assert len(doctor(capsys, damaged, "--repair")[1]["whole"]) == len(DOCUMENTS)
    with ProcedureCache(OFFLINE, damaged, fast()) as cache:
        assert {name: picture(cache, name) for name in DOCUMENTS} == made.pictures


def test_what_a_repair_that_was_cut_short_says_is_the_way_out(
    damaged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (damaged / "repaired-1").mkdir()
    (damaged / "damaged-1").mkdir()
    shutil.copy(damaged / DATABASE, damaged / "repaired-1" / DATABASE)
    (damaged / DATABASE).rename(damaged / "damaged-1" / DATABASE)
    for read_only in (True, False):
        with pytest.raises(CacheCorrupted, match=r"repair was cut short: .*doctor --repair` finishes it"):
            ProcedureCache(OFFLINE, damaged, fast(), read_only=read_only)
    (what,) = problems(doctor(capsys, damaged)[1])
    assert "finishes it" in what
    doctor(capsys, damaged, "--repair")
    assert not problems(doctor(capsys, damaged)[1])


@pytest.mark.parametrize("what", ["a database", "a text", "nothing that SQLite knows"])
def test_what_is_not_ours_is_neither_repaired_nor_touched(
    tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if what == "a database":
        connection = sqlite3.connect(tmp_path / DATABASE)
        with connection:
            connection.execute("CREATE TABLE Cache (key, value)")
            connection.execute("INSERT INTO Cache VALUES ('store', x'0000')")
        connection.close()
    else:
        (tmp_path / DATABASE).write_bytes(b"mine" if what == "a text" else os.urandom(10_000))
    before = contents(tmp_path)
    assert main(["doctor", "--repair", "--directory", str(tmp_path)]) == 1
    assert "no store of ours" in capsys.readouterr().err
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["writer.lock", "writer.turnstile", "leader.lock", LOG, INDEX, JOURNAL])
def test_a_directory_in_the_place_of_a_file_is_named(
    damaged: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (damaged / name).unlink(missing_ok=True)
    (damaged / name).mkdir()
    begin = time.monotonic()
    status, found = doctor(capsys, damaged)
    assert status == 1
    assert any(f"{name} is a directory" in text for text in problems(found))
    if name != "leader.lock":  # without which only syncing cannot go on
        assert main(["doctor", "--repair", "--directory", str(damaged)]) == 1
        assert f"{name} is a directory" in capsys.readouterr().err
        with pytest.raises(StoreReadOnly, match=f"{name} is a directory"):
            ProcedureCache(OFFLINE, damaged, fast())
    main(["status", "--directory", str(damaged)])
    assert time.monotonic() - begin < 50  # lock_timeout is 60 s, for each of them
