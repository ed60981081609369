"""The fixtures that pytest finds where the package is installed, and the guide's examples of them."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from plexus_tactus_cache.testing import DEFAULT_API_KEY, FAULTS, OFFLINE, Simulator

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
PLUGIN = "plexus_tactus_cache.testing.plugin"
GUIDE = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", GUIDE, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A pytest run of its own with our plugin, whether or not the installation here has registered it."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_PLUGINS", PLUGIN)
    return pytester


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_the_examples_of_the_guide_pass_as_written(tmp_path: Path, number: int) -> None:
    (tmp_path / "test_example.py").write_text(EXAMPLES[number], encoding="utf-8")
    variables = {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": PLUGIN}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | variables, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_the_guide_begins_with_an_outage_in_five_lines() -> None:
    test = EXAMPLES[0].partition("\n\n\n")[2]
    assert "plexus_simulator.fail(" in test
    assert len(test.splitlines()) == 5


def test_the_guide_lists_the_faults() -> None:
    rows = re.findall(r"^\| `(\w+)`((?:, `\w+`)*) \| (.*) \|$", GUIDE, flags=re.MULTILINE)
    assert [(name, set(re.findall(r"\w+", own)), says) for name, own, says in rows] == [
        (name, set(kind.own), kind.description) for name, kind in FAULTS.items()
    ]


def test_each_test_has_a_simulator_of_its_own(inner: pytest.Pytester) -> None:
    inner.makepyfile("""
        import pytest, requests
        seen = []

        @pytest.mark.parametrize("number", range(2))
        def test_fresh(plexus_simulator, number):
            assert plexus_simulator.records() == {}
            plexus_simulator.put("p")
            plexus_simulator.fail("refuse")
            seen.append(plexus_simulator)

        def test_they_are_stopped_and_healed():
            assert len(set(map(id, seen))) == 2
            for one in seen:
                with pytest.raises(requests.ConnectionError):
                    requests.get(one.url, timeout=2)
                with one:
                    assert requests.get(one.url, timeout=2).status_code == 405
    """)
    inner.runpytest_inprocess().assert_outcomes(passed=3)


def test_the_offline_cache_is_closed_and_talks_to_nobody(
    inner: pytest.Pytester, plexus: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLEXUS_API_URL", plexus.url)
    monkeypatch.setenv("PLEXUS_API_KEY", plexus.api_key)
    inner.makepyfile("""
        import pytest
        from plexus_tactus_cache import CacheClosed
        seen = []

        def test_it(offline_cache, tmp_path):
            (tmp_path / "own.txt").write_text("a file of the test's is not in its way")
            storage = offline_cache.storage("p")
            storage.state_set("p", "k", 1)
            assert storage.state_get("p", "k") == 1
            assert not offline_cache.flush(0.1)
            assert offline_cache.directory.parent == tmp_path
            seen.append(offline_cache)

        def test_it_is_closed():
            with pytest.raises(CacheClosed):
                seen[0].status()
    """)
    inner.runpytest_inprocess().assert_outcomes(passed=2)
    assert plexus.requests == 0


def test_a_missing_extra_is_named(inner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plexus_tactus_cache.testing.simulator", None)  # as if what it needs were missing
    inner.makepyfile("""
        def test_it(plexus_simulator):
            pass

        def test_others_run():
            pass
    """)
    result = inner.runpytest_inprocess()
    result.assert_outcomes(errors=1, passed=1)
    result.stdout.fnmatch_lines(["*with its extra `testing`*"])


def test_it_is_registered() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (name,) = project["entry-points"]["pytest11"].values()
    plugin = importlib.import_module(name)
    assert (name, callable(plugin.plexus_simulator), callable(plugin.offline_cache)) == (PLUGIN, True, True)


def test_every_pytest_run_imports_the_plugin_so_it_imports_little() -> None:
    script = f"""
import sys, {PLUGIN}
print([one for one in ("tactus", "boto3", "rich", "click", "plexus_tactus_cache.testing.simulator")
       if one in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_names() -> None:
    import plexus_tactus_cache
    from plexus_tactus_cache import testing

    assert all(getattr(testing, name) is not None for name in testing.__all__)
    assert OFFLINE is plexus_tactus_cache.OFFLINE
    assert Simulator().api_key == DEFAULT_API_KEY
    with pytest.raises(AttributeError, match="has no attribute 'Simulatr'"):
        _ = testing.Simulatr  # type: ignore[attr-defined]
