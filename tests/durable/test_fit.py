"""A Tactus that DurableRuntime does not fit, and ids that could not be stored, are refused with a clear message."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from plexus_tactus_cache import InvalidArgument

runtime = pytest.importorskip("tactus.core.runtime")

tactus = pytest.importorskip("plexus_tactus_cache.tactus.runtime")


@pytest.fixture
def reload_after() -> Any:
    yield
    importlib.reload(tactus)


@pytest.mark.usefixtures("reload_after")
def test_a_tactus_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(runtime.TactusRuntime, "_create_execution_context", lambda self, other: None)
        with pytest.raises(ImportError, match=r"does not fit .* TactusRuntime\._create_execution_context"):
            importlib.reload(tactus)
    with monkeypatch.context() as patch:
        patch.delattr(runtime.TactusRuntime, "_inject_primitives")
        with pytest.raises(ImportError, match=r"_inject_primitives with the parameters \(\), found None"):
            importlib.reload(tactus)


@pytest.mark.parametrize("value", ["\ud800", 3, b"x", "x" * 3000, ["x"]])
@pytest.mark.parametrize("argument", ["procedure_id", "run_id"])
def test_ids_that_could_not_be_stored(argument: str, value: Any) -> None:
    with pytest.raises(InvalidArgument, match=argument):
        tactus.DurableRuntime(**{"procedure_id": "p", "run_id": "r", argument: value})
    made = tactus.DurableRuntime("p", run_id=None)
    assert made.procedure_id == "p"
