"""`plexus-tactus-cache run`: real processes, Ctrl-C and SIGKILL."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers import eventually

from plexus_tactus_cache import ProcedureCache
from plexus_tactus_cache.cli.main import main
from plexus_tactus_cache.testing.simulator import Simulator

pytest.importorskip("tactus.core.runtime")

SOURCE = """
Procedure {
    input = { steps = field.number{ default = 2 }, name = field.string{ default = "nobody" } },
    output = { count = field.number{}, name = field.string{} },
    function(input)
        for n = 1, input.steps do
            local step = Step.checkpoint(function() File.write("step" .. n .. ".txt", "done") return { n } end)
            State.increment("count", step[1])
            if input.steps > 5 then Sleep(0.1) end
        end
        return { count = state.count, name = input.name }
    end
}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "count.tac"
    path.write_text(SOURCE)
    return path


def command(file: Path, *arguments: str) -> list[str]:
    return ["run", str(file), "--directory", str(file.parent / "store"), "--procedure-id", "p1", *arguments]


def outcome(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_it_goes_on_with_the_same_parameters(
    file: Path, end: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = command(file, "--param", "steps=12", "--param", "name=Ada")
    with subprocess.Popen(
        [sys.executable, "-m", "plexus_tactus_cache", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        cwd=file.parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        # What runs in the background of a shell ignores Ctrl-C, and so do its children.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    ) as process:
        eventually(lambda: (file.parent / "step4.txt").exists(), 30)
        process.send_signal(end)
        _, said = process.communicate(timeout=30)
    if end == signal.SIGINT:
        assert process.returncode == 130
        assert "--procedure-id p1 --resume" in said
    else:
        assert process.returncode == -signal.SIGKILL
    made = {path.name: path.stat().st_mtime_ns for path in file.parent.glob("step*.txt")}
    assert len(made) < 12

    assert main(command(file, "--resume")) == 0
    assert outcome(capsys) == {"count": sum(range(1, 13)), "name": "Ada"}
    with ProcedureCache(None, file.parent / "store") as cache:
        found = cache.storage("p1").load_procedure_metadata("p1")
        assert (found.status, found.state, len(found.execution_log)) == ("COMPLETED", {"count": 78}, 12)
        stored = [path for path, when in made.items() if (file.parent / path).stat().st_mtime_ns == when]
        assert len(stored) >= len(made) - 1  # one may have been in flight

    assert main(command(file, "--resume", "--param", "steps=3")) == 1
    assert "began with other parameters" in capsys.readouterr().err


def test_a_resume_never_starts_anew(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(file, "--resume")) == 1  # there is no Plexus to ask
    assert "no client to ask Plexus with" in capsys.readouterr().err
    with Simulator() as plexus:
        monkeypatch.setenv("PLEXUS_API_URL", plexus.url)
        monkeypatch.setenv("PLEXUS_API_KEY", plexus.api_key)
        plexus.fail("refuse")
        assert main(command(file, "--resume")) == 1
        assert "not stored here" in capsys.readouterr().err
        plexus.heal()
        plexus.put(id="p1")
        assert main(command(file, "--resume")) == 1
        assert "no run to go on with" in capsys.readouterr().err
        assert list(file.parent.glob("step*.txt")) == []

        assert main(command(file, "--json")) == 0
        first = outcome(capsys)
        assert first["outcome"]["result"] == {"count": 3, "name": "nobody"}
        assert main([*command(file, "--resume", "--json"), "--directory", str(file.parent / "elsewhere")]) == 0
        assert outcome(capsys)["run_id"] == first["run_id"]
        record = plexus.record("p1")
        assert record is not None
        assert record["status"] == "COMPLETED"


def test_what_fails_and_what_is_wrong(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("Procedure { function(input) error('broken') end }")
    assert main(command(file)) == 1
    assert "broken" in capsys.readouterr().err
    with ProcedureCache(None, file.parent / "store") as cache:
        assert cache.storage("p1").load_procedure_metadata("p1").status == "FAILED"
    for wrong, why in (
        (["run", str(file.with_name("absent.tac")), "--procedure-id", "p"], "absent.tac cannot be read"),
        (["run", str(file)], "Give --procedure-id"),
        (["run", str(file), "--resume"], "which procedure is to go on?"),
    ):
        assert main([*wrong, "--directory", str(file.parent / "store")]) == 1
        assert why in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(command(file, "--param", "novalue"))
    assert caught.value.code == 2


@pytest.mark.parametrize("ends", ["return { name = input.name }", "error(input.name)"])
def test_what_a_procedure_says_does_nothing_to_the_terminal(
    file: Path, capsys: pytest.CaptureFixture[str], ends: str
) -> None:
    hostile = "\x1b[2J\x9b2J\u202egnp\u2028"
    file.write_text(
        """
Procedure {
    input = { name = field.string{ default = "nobody" } },
    output = { name = field.string{} },
    function(input)
        Log.info("two lines\\n" .. input.name)
        """
        + ends
        + """
    end
}
"""
    )
    main([*command(file, "--param", f"name={json.dumps(hostile)}"), "--run-id", hostile, "--procedure-id", hostile])
    out, err = capsys.readouterr()
    assert r"\x1b[2J\x9b2J\u202egnp\u2028" in err
    for line in (out + err).split("\n"):
        assert line.isprintable(), ascii(line)
    if out:
        assert json.loads(out) == {"name": hostile}
