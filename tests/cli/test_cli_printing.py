"""Ids, names and reasons that do something to a terminal, or forge lines, are only seen."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import OpenCache
from helpers import client_of, fast
from processes import environment

from plexus_tactus_cache import ProcedureCache, ProcedureNotFound, RemoteUnavailable, StorageError, ValueNotSerializable
from plexus_tactus_cache.cli import main
from plexus_tactus_cache.testing.simulator import Simulator
from plexus_tactus_cache.testing.simulator.errors import VALIDATION, PlexusError

HOSTILE = "\x1b]0;owned\x07\x9b2J\x7f\x00\x08\r\n\tforged: line\u202egnp\u2066\u2028\u2029\x85é\u200b"
ESCAPED = r"\x1b]0;owned\x07\x9b2J\x7f\x00\x08\r\n\tforged: line\u202egnp\u2066\u2028\u2029\x85" + "é" + r"\u200b"
HALF = "half \ud800"


def check(text: str, *, lines: int | None = None) -> None:
    """Nothing in it but what is seen, and ends of lines that are ours."""
    assert all(line.isprintable() for line in text.split("\n")), ascii(text)
    assert not [line for line in text.split("\n") if line.startswith(("forged", "\tforged"))]
    if lines is not None:
        assert text.count("\n") == lines


@pytest.fixture
def directory(tmp_path: Path, plexus: Simulator, open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with a hostile id that Plexus refuses in hostile words, a hostile status, and a conflict of such."""
    monkeypatch.setenv("PLEXUS_API_URL", plexus.url)
    monkeypatch.setenv("PLEXUS_API_KEY", plexus.api_key)
    plexus.put("conflict", metadata={"state": {HOSTILE: 1}})
    plexus.put(HOSTILE)
    cache = open_cache(background=False)
    storage = cache.storage("conflict")
    storage.load_procedure_metadata("conflict")
    storage.state_set("conflict", HOSTILE, [HOSTILE, HALF, {HALF: (1, 2)}])
    storage.update_procedure_status("conflict", HOSTILE)
    plexus.put("conflict", metadata={"state": {HOSTILE: HOSTILE}})
    assert cache.flush(10)
    assert len(cache.conflicts()) == 1
    cache.storage(HOSTILE).state_set(HOSTILE, "k", 1)

    def refuse(*_: Any) -> None:
        raise PlexusError(VALIDATION, HOSTILE)

    plexus.before_mutation = refuse
    assert not cache.flush(10)
    assert cache.status().parked == 1
    cache.close()
    return tmp_path / "store"


COMMANDS = [
    (["status"], 0),
    (["ls"], 0),
    (["sync", "--timeout", "0.5"], 1),
    (["conflicts"], 0),
    (["retry", HOSTILE.replace("\x00", ""), "--timeout", "0.5"], 1),
    (["pull", "unknown\x1b[2J"], 1),
    (["pull", HALF], 1),
    (["resolve", "\x1b[2J", "--keep", "local"], 1),
]


@pytest.mark.parametrize(("arguments", "expected"), COMMANDS)
@pytest.mark.parametrize("as_json", [False, True])
def test_every_command(
    directory: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: int, as_json: bool
) -> None:
    more = ["--json"] if as_json else []
    assert main([*arguments, "--directory", str(directory), *more]) == expected
    out, err = capsys.readouterr()
    check(out)
    check(err)
    if as_json and expected == 0:
        assert out.isascii()
        json.loads(out)


def test_a_line_for_each(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", "--directory", str(directory)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert ESCAPED in lines[1] + lines[2]
    column = lines[0].index("PLEXUS")
    assert {line[column:][:6] for line in lines[1:]} == {"parked", "up to "}
    assert main(["status", "--directory", str(directory)]) == 0
    text = capsys.readouterr().out
    assert f"  parked: {ESCAPED}: refused by Plexus: {VALIDATION}: {ESCAPED}\n" in text


def test_json_has_the_values_as_they_are(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", "--json", "--directory", str(directory)]) == 0
    assert HOSTILE in {one["procedure_id"] for one in json.loads(capsys.readouterr().out)}
    assert main(["conflicts", "--json", "--directory", str(directory)]) == 0
    (conflict,) = json.loads(capsys.readouterr().out)
    assert conflict["remote"] == HOSTILE or conflict["local"][0] == HOSTILE


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_terminals_that_know_few_characters(directory: Path, encoding: str) -> None:
    for arguments in (["status"], ["ls"], ["conflicts"], ["conflicts", "--json"], ["pull", "unknown é\u3042"]):
        done = subprocess.run(
            [sys.executable, "-m", "plexus_tactus_cache", *arguments, "--directory", str(directory)],
            capture_output=True,
            check=False,
            timeout=60,
            env=environment(
                PYTHONIOENCODING=encoding,
                PLEXUS_API_URL=os.environ["PLEXUS_API_URL"],
                PLEXUS_API_KEY=os.environ["PLEXUS_API_KEY"],
            ),
        )
        assert b"Traceback" not in done.stderr
        assert done.returncode == (1 if "pull" in arguments else 0), done.stderr
        check(done.stdout.decode(encoding))
        check(done.stderr.decode(encoding))


def test_wrong_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([HOSTILE], ["ls", HOSTILE], ["sync", "--timeout", HOSTILE], ["ls", f"--{HALF}"]):
        with pytest.raises(SystemExit):
            main(arguments)
        err = capsys.readouterr().err
        assert "error: " in err
        check(err)


# --- the log, and errors ------------------------------------------------------------------------------------


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What the package logged, to the last record."""
    caplog.set_level(logging.DEBUG, logger="plexus_tactus_cache")
    yield caplog
    ours = [record for record in caplog.get_records("call") if record.name == "plexus_tactus_cache"]
    assert ours
    for record in ours:
        assert record.getMessage().isprintable(), ascii(record.getMessage())


def test_the_log_of_what_plexus_refuses(
    plexus: Simulator, open_cache: OpenCache, log: pytest.LogCaptureFixture
) -> None:
    plexus.put(HOSTILE)

    def refuse(*_: Any) -> None:
        raise PlexusError(VALIDATION, f"{HOSTILE}{HALF}")

    plexus.before_mutation = refuse
    cache = open_cache(background=False)
    cache.storage(HOSTILE).state_set(HOSTILE, "k", 1)
    report = cache.sync(5)
    (procedure,) = cache.procedures()
    assert procedure.procedure_id == HOSTILE
    assert procedure.parked_reason
    assert procedure.parked_reason.isprintable()
    assert report.parked == (HOSTILE,)
    assert ESCAPED in log.text


def test_the_log_of_an_outage(plexus: Simulator, open_cache: OpenCache, log: pytest.LogCaptureFixture) -> None:
    plexus.fail("refuse")
    open_cache(background=False, load_timeout=0.5).storage(HOSTILE).load_procedure_metadata(HOSTILE)
    assert ESCAPED in log.text


def test_errors(plexus: Simulator, open_cache: OpenCache, tmp_path: Path) -> None:
    for error in (StorageError(HOSTILE + HALF), ProcedureNotFound(HOSTILE), ValueNotSerializable(HOSTILE, HALF)):
        check(str(error), lines=0)
        check(repr(error), lines=0)
    cache = open_cache(background=False)
    with pytest.raises(ProcedureNotFound) as missing:
        cache.pull(HOSTILE)
    check(str(missing.value), lines=0)

    class Hostile:
        api_url = plexus.url

        def execute(self, query: str, variables: Any = None) -> Any:
            error = Exception(HOSTILE)
            error.errors = [{"message": HOSTILE + HALF, "errorType": HOSTILE}]  # type: ignore[attr-defined]  # as gql's errors have
            raise error

    other = open_cache("other", client=Hostile(), background=False)
    with pytest.raises(RemoteUnavailable) as refused:
        other.pull("p")
    assert ESCAPED in str(refused.value)
    check(str(refused.value), lines=0)
    with pytest.raises(StorageError) as nowhere:
        ProcedureCache(client_of(plexus), tmp_path / "file\x1b[2J" / "store", fast(), read_only=True)
    check(str(nowhere.value), lines=0)


def test_an_id_that_is_no_text(open_cache: OpenCache) -> None:
    with pytest.raises(StorageError) as raised:
        open_cache(background=False).storage(HALF)
    check(str(raised.value), lines=0)
