"""The command line: what it prints, its exit statuses, and that looking changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import OpenCache
from helpers import append, client_of, fast, remote_results, remote_state
from processes import script

from plexus_tactus_cache import CacheStatus, ProcedureCache, ProcedureStatus
from plexus_tactus_cache.cli.main import main
from plexus_tactus_cache.store.local.directory import DATABASE
from plexus_tactus_cache.testing.simulator import Simulator

COMMANDS = ("status", "ls", "sync")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def run(directory: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """`run("status", "--json")` in this process: exit status, what it printed, what it complained about."""

    def run_(*arguments: str, where: Path | None = None) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main([*arguments, "--directory", str(where or directory)])
        return status, *capsys.readouterr()

    return run_


@pytest.fixture
def environment(plexus: Simulator, monkeypatch: pytest.MonkeyPatch) -> Simulator:
    """The environment says where Plexus is."""
    monkeypatch.setenv("PLEXUS_API_URL", plexus.url)
    monkeypatch.setenv("PLEXUS_API_KEY", plexus.api_key)
    return plexus


def offline(directory: Path) -> ProcedureCache:
    """A cache without a client, whatever the environment says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PLEXUS_API_URL", raising=False)
        return ProcedureCache(None, directory, fast())


def fill(directory: Path, *procedure_ids: str) -> None:
    """Procedures with one entry and one key each, not in Plexus."""
    with offline(directory) as cache:
        for procedure_id in procedure_ids:
            append(cache.storage(procedure_id), "one")
            cache.storage(procedure_id).state_set(procedure_id, "k", 1)


# --- status -----------------------------------------------------------------------------------------------


def test_status(run: Run, directory: Path, environment: Simulator) -> None:
    fill(directory, "p", "q")
    status, out, err = run("status")
    assert (status, err) == (0, "")
    assert str(directory) in out
    assert "2 not in Plexus yet, the oldest for 0 s, 0 parked" in out
    assert "never" in out
    assert "next try" in out
    environment.put("p")
    environment.put("q")
    assert run("sync")[0] == 0
    status, out, _ = run("status")
    assert status == 0
    assert "connection: online" in out
    assert "2, 0 not in Plexus yet, 0 parked" in out
    assert environment.url in out
    assert "next try" not in out


def test_status_as_json(run: Run, directory: Path, environment: Simulator) -> None:
    fill(directory, "p")
    status, out, err = run("status", "--json")
    assert (status, err) == (0, "")
    found = CacheStatus(**json.loads(out))
    assert (found.procedures, found.dirty, found.parked, found.connection) == (1, 1, 0, "unknown")
    assert (found.directory, found.last_success, found.leader) == (str(directory), None, False)
    assert set(json.loads(out)) == set(CacheStatus.model_fields)


def test_status_of_an_outage(run: Run, directory: Path, environment: Simulator) -> None:
    fill(directory, "p")
    environment.fail("status", code=503)
    assert run("sync", "--timeout", "0.2")[0] == 1
    _, out, _ = run("status")
    assert "connection: offline (HTTP 503)" in out
    assert "next try:" in out
    _, out, _ = run("ls")
    assert "waiting" in out


def test_status_without_plexus_in_the_environment(run: Run, directory: Path) -> None:
    fill(directory, "p")
    status, out, _ = run("status")
    assert status == 0
    assert "connection: no client" in out
    assert "1 not in Plexus yet" in out


def test_status_of_an_empty_store(run: Run, directory: Path) -> None:
    fill(directory)
    assert run("status")[0] == 0
    assert "0, 0 not in Plexus yet, 0 parked" in run("status")[1]
    assert json.loads(run("ls", "--json")[1]) == []
    assert run("ls")[1].splitlines() == ["PROCEDURE  ENTRIES  STATUS  PLEXUS"]


# --- ls ---------------------------------------------------------------------------------------------------


def test_ls(run: Run, directory: Path, environment: Simulator) -> None:
    environment.put("a-procedure-with-a-long-name")
    fill(directory, "a-procedure-with-a-long-name")
    assert run("sync")[0] == 0
    fill(directory, "q")
    with offline(directory) as cache:
        cache.storage("q").update_procedure_status("q", "WAITING_FOR_HUMAN")
    status, out, err = run("ls")
    assert (status, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        ["PROCEDURE", "ENTRIES", "STATUS", "PLEXUS"],
        ["a-procedure-with-a-long-name", "1", "-", "up", "to", "date"],
        ["q", "1", "WAITING_FOR_HUMAN", "waiting"],
    ]
    status, out, _ = run("ls", "--json")
    found = [ProcedureStatus(**one) for one in json.loads(out)]
    assert [(one.procedure_id, one.dirty, one.entries, one.status) for one in found] == [
        ("a-procedure-with-a-long-name", False, 1, None),
        ("q", True, 1, "WAITING_FOR_HUMAN"),
    ]
    assert status == 0


# --- sync -------------------------------------------------------------------------------------------------


def test_sync(run: Run, directory: Path, environment: Simulator) -> None:
    environment.put("p", metadata={"runtime": "lua"})
    fill(directory, "p")
    status, out, err = run("sync")
    assert (status, out.strip(), err) == (0, "everything is in Plexus", "")
    assert (remote_state(environment, "p"), remote_results(environment, "p")) == ({"k": 1}, ["one"])
    assert run("sync")[0] == 0  # again: nothing to do
    status, out, _ = run("sync", "--json")
    assert (status, json.loads(out)["dirty"]) == (0, 0)


@pytest.mark.parametrize(
    ("fault", "words"), [("refuse", "no connection"), ("expired_key", "Unauthorized"), ("html", "not GraphQL")]
)
def test_sync_that_fails_says_why(run: Run, directory: Path, environment: Simulator, fault: str, words: str) -> None:
    environment.put("p")
    fill(directory, "p")
    environment.fail(fault)
    status, out, err = run("sync", "--timeout", "0.2")
    assert status == 1
    assert words in err
    assert "1 not in Plexus yet" in out
    assert "p: waiting" in out
    status, out, _ = run("sync", "--json", "--timeout", "0.2")
    assert (status, json.loads(out)["dirty"]) == (1, 1)
    environment.heal()
    assert run("sync")[0] == 0
    assert remote_state(environment, "p") == {"k": 1}


def test_sync_without_plexus_in_the_environment(run: Run, directory: Path) -> None:
    fill(directory, "p")
    status, _, err = run("sync")
    assert status == 1
    assert "no client" in err


def test_sync_while_another_process_leads(
    run: Run, directory: Path, environment: Simulator, open_cache: OpenCache
) -> None:
    environment.put("p")
    cache = open_cache(push_interval=0.05)
    cache.storage("p").state_set("p", "k", 1)
    assert run("sync")[0] == 0
    assert remote_state(environment, "p") == {"k": 1}


def test_parked_procedures_are_shown(run: Run, directory: Path, environment: Simulator) -> None:
    environment.put("p")
    fill(directory, "nobody", "p")
    status, out, _ = run("sync")
    assert status == 1
    assert "nobody: parked: Plexus has no such procedure" in out
    assert remote_state(environment, "p") == {"k": 1}
    status, out, _ = run("status")
    assert status == 0
    assert "1 parked" in out
    assert "parked: nobody: Plexus has no such procedure" in out
    status, out, _ = run("ls")
    assert status == 0
    assert "parked: Plexus has no such procedure" in out
    (parked, fine) = json.loads(run("ls", "--json")[1])
    assert "create it" in parked["parked_reason"]
    assert fine["parked_reason"] is None
    assert json.loads(run("status", "--json")[1])["parked"] == 1


def test_a_parked_procedure_without_local_changes(run: Run, directory: Path, environment: Simulator) -> None:
    environment.put("p", metadata={"state": {"_s3_key": "procedures/p/state.json"}})
    with ProcedureCache(client_of(environment), directory, fast(), background=False) as cache:
        cache.storage("p").load_procedure_metadata("p")
        assert (cache.status().parked, cache.status().dirty) == (1, 0)
    status, out, _ = run("sync")
    assert status == 1
    assert "everything is in Plexus" not in out
    assert "p: parked: state is kept in S3" in out


# --- what cannot be done ----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_a_directory_without_a_store(run: Run, tmp_path: Path, command: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for name in ("missing", "empty", "file"):
        status, out, err = run(command, where=tmp_path / name)
        assert (status, out) == (1, "")
        assert err.startswith("plexus-tactus-cache: there is no store in")
        assert name in err
    assert not (tmp_path / "missing").exists()  # looking makes nothing
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("name", "value"),
    [("PUSH_INTERVAL", "soon"), ("DURABILITY", "some"), ("ON_UNREACHABLE", "panic"), ("MAX_REQUEST_BYTES", "-1")],
)
def test_garbage_settings(
    run: Run, directory: Path, monkeypatch: pytest.MonkeyPatch, command: str, name: str, value: str
) -> None:
    fill(directory, "p")
    monkeypatch.setenv(f"PLEXUS_CACHE_{name}", value)
    status, out, err = run(command)
    assert (status, out) == (1, "")
    assert err.startswith("plexus-tactus-cache: ")
    assert name.lower() in err
    assert value in err


@pytest.mark.parametrize("command", COMMANDS)
def test_a_store_of_another_endpoint(
    run: Run, directory: Path, environment: Simulator, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    environment.put("p")
    fill(directory, "p")
    assert run("sync")[0] == 0
    monkeypatch.setenv("PLEXUS_API_URL", "https://production.example/graphql")
    status, out, err = run(command)
    assert (status, out) == (1, "")
    assert environment.url in err
    assert "https://production.example/graphql" in err


@pytest.mark.parametrize("command", COMMANDS)
def test_a_damaged_store(run: Run, directory: Path, command: str) -> None:
    directory.mkdir()
    (directory / DATABASE).write_bytes(b"this is no database" * 1000)
    status, out, err = run(command)
    assert (status, out) == (1, "")
    assert "damaged" in err


@pytest.mark.parametrize(
    "arguments", [[], ["unknown"], ["status", "--what"], ["sync", "--timeout", "soon"], ["ls", "--directory"]]
)
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert all(command in out for command in COMMANDS)


@pytest.mark.parametrize("command", ["status", "ls"])
def test_looking_sends_nothing_and_pushes_nothing(
    run: Run, directory: Path, environment: Simulator, command: str
) -> None:
    environment.put("p")
    fill(directory, "p")
    for arguments in ([command], [command, "--json"]):
        assert run(*arguments)[0] == 0
    assert environment.requests == 0
    assert json.loads(run("status", "--json")[1])["dirty"] == 1


# --- in a process of its own ------------------------------------------------------------------------------


def command_line(*arguments: str, **variables: str) -> Any:
    return script("", "-m", "plexus_tactus_cache", *arguments, **variables)


def test_as_a_program(plexus: Simulator, directory: Path) -> None:
    plexus.put("p")
    fill(directory, "p")
    where = {"PLEXUS_API_URL": plexus.url, "PLEXUS_API_KEY": plexus.api_key, "PLEXUS_CACHE_DIR": str(directory)}
    done = command_line("status", "--json", **where)
    assert (done.returncode, json.loads(done.stdout)["dirty"], done.stderr) == (0, 1, "")
    done = command_line("sync", **where)
    assert (done.returncode, done.stdout, done.stderr) == (0, "everything is in Plexus\n", "")
    assert remote_state(plexus, "p") == {"k": 1}
    done = command_line("ls", **where)
    assert done.returncode == 0
    assert "up to date" in done.stdout


def test_exit_statuses_of_the_program(plexus: Simulator, directory: Path, tmp_path: Path) -> None:
    fill(directory, "p")
    store = {"PLEXUS_CACHE_DIR": str(directory)}
    for arguments, variables, status in (
        (["status"], {"PLEXUS_CACHE_DIR": str(tmp_path / "missing")}, 1),
        (["status"], {**store, "PLEXUS_CACHE_PUSH_INTERVAL": "soon"}, 1),
        (["sync", "--timeout", "0.1"], {**store, "PLEXUS_API_URL": "garbage", "PLEXUS_API_KEY": "x"}, 1),
        (["nonsense"], store, 2),
    ):
        done = command_line(*arguments, **variables)
        assert done.returncode == status, done.stderr
        assert done.stderr
        assert "Traceback" not in done.stderr


def test_the_default_directory_is_that_of_the_endpoint(plexus: Simulator, tmp_path: Path) -> None:
    plexus.put("p")
    home = {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path / "data")}
    here = {**home, "PLEXUS_API_URL": plexus.url, "PLEXUS_API_KEY": plexus.api_key}
    write = "from plexus_tactus_cache import *\nPlexusStorageAdapter(None, 'p').state_set('p', 'k', 1)"
    assert script(write, **here).returncode == 0
    assert remote_state(plexus, "p") == {"k": 1}
    done = command_line("status", "--json", **here)
    assert json.loads(done.stdout)["procedures"] == 1
    assert Path(json.loads(done.stdout)["directory"]).is_relative_to(tmp_path / "data")
    other = command_line("status", **{**here, "PLEXUS_API_URL": "https://production.example/graphql"})
    assert other.returncode == 1
    assert "there is no store" in other.stderr


@pytest.mark.parametrize("command", ["status", "ls"])
def test_looking_does_not_give_the_store_to_an_endpoint(
    run: Run, directory: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    fill(directory, "p")
    monkeypatch.setenv("PLEXUS_API_URL", "https://staging.example/graphql")
    monkeypatch.setenv("PLEXUS_API_KEY", "key")
    assert run(command)[0] == 0
    monkeypatch.setenv("PLEXUS_API_URL", "https://production.example/graphql")
    assert run(command)[0] == 0
