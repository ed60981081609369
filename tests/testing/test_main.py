"""`python -m plexus_tactus_cache.testing`: what it prints, what it offers, and how it ends."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from plexus_tactus_cache.testing import DEFAULT_API_KEY, FAULTS, Simulator

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "plexus_tactus_cache.testing"]


@contextmanager
def running(*options: str) -> Iterator[list[str]]:
    """Give the lines that it prints; SIGTERM ends it well."""
    command = [*COMMAND, "--port", "0", *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines: list[str] = []
            while not lines or lines[-1].split()[:1] != [list(FAULTS)[-1]]:  # the last that it says
                line = process.stdout.readline()
                assert line, f"it ended after {lines}"
                lines.append(line.rstrip("\n"))
            yield lines
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
        finally:
            process.kill()


def value(lines: list[str], label: str) -> str:
    """Return what one line says after its label."""
    (found,) = (line.removeprefix(f"{label}: ") for line in lines if line.startswith(f"{label}: "))
    return found


def test_it_serves_what_it_prints(tmp_path: Path) -> None:
    data_file = tmp_path / "plexus.json"
    with running("--control-port", "0", "--api-key", "secret", "--data", str(data_file)) as lines:
        url, key, control = (value(lines, label) for label in ("Plexus simulator", "API key", "Control"))
        assert key == "secret"
        assert requests.put(f"{control}/records/p1", json={"name": "n"}, timeout=5).status_code == 200
        query = {"query": '{ getProcedure(id: "p1") { name } }'}
        answer = requests.post(url, json=query, headers={"x-api-key": key}, timeout=5).json()
        assert answer == {"data": {"getProcedure": {"name": "n"}}}
        assert list(json.loads(data_file.read_text())) == ["p1"]
        assert list(requests.get(control, timeout=5).json()["faults"]) == list(FAULTS)


def test_it_prints_the_faults_with_a_few_words_on_each() -> None:
    with running() as lines:
        assert value(lines, "API key") == DEFAULT_API_KEY
        assert not any(line.startswith("Control: ") for line in lines)
        listed = dict(line.split(maxsplit=1) for line in lines[-len(FAULTS) :])
    assert list(listed) == list(FAULTS)
    for name, words in listed.items():
        assert words.startswith(FAULTS[name].description)
        assert all(parameter in words for parameter in FAULTS[name].own)


def test_a_port_in_use(plexus: Simulator) -> None:
    port = plexus.url.split(":")[2].split("/")[0]
    command = [*COMMAND, "--port", port]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=10, check=False)
    assert done.returncode == 1
    assert done.stderr == f"Error: port {port} on 127.0.0.1 is already in use\n"


@pytest.mark.parametrize("missing", ["click", "graphql"])
def test_without_the_extra(missing: str) -> None:
    # What the package itself needs is loaded first: gql, of which it cannot do without, brings graphql-core along.
    script = f"""
import runpy, sys
import plexus_tactus_cache.testing
sys.modules[{missing!r}] = None
runpy.run_module("plexus_tactus_cache.testing", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"The simulator needs {missing}: install plexus-tactus-cache with its extra `testing`\n"
