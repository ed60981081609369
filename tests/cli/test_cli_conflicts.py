"""The commands with which a person deals with what reconciling set aside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import OpenCache
from helpers import append, remote_results, remote_state

from plexus_tactus_cache import ProcedureCache
from plexus_tactus_cache.cli.main import main
from plexus_tactus_cache.testing.simulator import Simulator


@pytest.fixture
def directory(plexus: Simulator, open_cache: OpenCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with a fork of procedure `forked` and a value of `p` set aside."""
    monkeypatch.setenv("PLEXUS_API_URL", plexus.url)
    monkeypatch.setenv("PLEXUS_API_KEY", plexus.api_key)
    for procedure_id in ("p", "forked"):
        plexus.put(procedure_id)
    ours, theirs = open_cache("ours", background=False), open_cache("theirs", background=False)
    storages = {}
    for cache in (ours, theirs):
        for procedure_id in ("p", "forked"):
            storages[cache, procedure_id] = cache.storage(procedure_id)
            storages[cache, procedure_id].load_procedure_metadata(procedure_id)

    def go_on(cache: ProcedureCache, who: str) -> None:
        storages[cache, "p"].state_set("p", "k", {"who": who, "raw": b"1"})
        append(storages[cache, "forked"], f"step of {who}")

    go_on(theirs, "theirs")
    assert theirs.flush(10)
    go_on(ours, "ours")
    assert not ours.flush(10)
    ours.close()
    return tmp_path / "ours"


def run(directory: Path, *arguments: str) -> int:
    return main([arguments[0], "--directory", str(directory), *arguments[1:]])


def test_from_the_fork_to_everything_in_plexus(
    plexus: Simulator, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(directory, "status") == 0
    assert "conflicts:  2, see" in capsys.readouterr().out
    assert run(directory, "conflicts") == 0
    text = capsys.readouterr().out
    for words in (
        "forked",
        "execution_log from position 0",
        "undecided",
        "step of ours",
        "step of theirs",
        "state 'k'",
        "local is kept",
    ):
        assert words in text
    assert run(directory, "conflicts", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    fork = next(one for one in found if one["procedure_id"] == "forked")
    value = next(one for one in found if one["procedure_id"] == "p")
    assert (fork["kept"], fork["local"][0]["result"]) == (None, "step of ours")
    assert (value["kept"], value["remote"]["who"]) == ("local", "theirs")

    assert run(directory, "resolve", fork["id"], "--keep", "remote") == 0
    assert run(directory, "resolve", value["id"], "--keep", "remote") == 0
    assert run(directory, "sync") == 0
    assert remote_results(plexus, "forked") == ["step of theirs"]
    assert remote_state(plexus, "p")["k"]["who"] == "theirs"
    capsys.readouterr()
    assert run(directory, "conflicts") == 0
    assert capsys.readouterr().out == "no conflicts\n"
    assert run(directory, "conflicts", "--resolved", "--json") == 0
    assert {one["resolved"] for one in json.loads(capsys.readouterr().out)} == {"remote"}


def test_what_is_not_there(plexus: Simulator, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(directory, "resolve", "99", "--keep", "local") == 1
    assert "no conflict '99'" in capsys.readouterr().err
    assert run(directory, "retry", "unknown") == 1
    assert "unknown" in capsys.readouterr().err
    assert run(directory, "pull", "unknown") == 1
    assert "unknown" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        run(directory, "resolve", "1")
    assert stopped.value.code == 2


def test_pull_and_retry_tell_where_the_procedure_stands(
    plexus: Simulator, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(directory, "retry", "forked", "--timeout", "10") == 1
    assert "forked: parked: the execution log went on" in capsys.readouterr().out
    assert run(directory, "pull", "p", "--json") == 0
    assert json.loads(capsys.readouterr().out)["dirty"] is False
    plexus.fail("status", code=503)
    assert run(directory, "pull", "p") == 1
    assert "503" in capsys.readouterr().err
