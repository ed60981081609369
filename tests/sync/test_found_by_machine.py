"""What the state machine found, each reduced to a few steps and named by the rule that was broken."""

from __future__ import annotations

import pytest
from conftest import OpenCache
from helpers import append, parked_reason, remote_results

from plexus_tactus_cache import ProcedureCache, ProcedureMetadata
from plexus_tactus_cache.testing.simulator import Simulator


def forked(plexus: Simulator, open_cache: OpenCache) -> ProcedureCache:
    """A machine whose log of `p` is ["ours"], while Plexus has ["theirs"]; parked."""
    plexus.put("p", status="RUNNING", metadata={})
    ours, theirs = open_cache("ours", background=False), open_cache("theirs", background=False)
    append(ours.storage("p"), "ours")
    append(theirs.storage("p"), "theirs")
    assert theirs.flush(10)
    assert ours.sync(10).parked == ("p",)
    return ours


def test_a_fork_that_ends_by_itself_unparks(plexus: Simulator, open_cache: OpenCache) -> None:
    ours = forked(plexus, open_cache)
    plexus.put("p", metadata={"state": {"k": 1}})  # what was there is gone, and no conflict is left to be resolved
    ours.pull("p")
    assert [one for one in ours.conflicts() if one.kept is None] == []
    assert parked_reason(ours, "p") is None
    assert ours.flush(10)
    assert remote_results(plexus, "p") == ["ours"]


@pytest.mark.parametrize("then", ["save", "edit"])
def test_an_unsaved_change_does_not_hide_what_another_process_wrote_though_the_object_is_loaded_again(
    open_offline: OpenCache, then: str
) -> None:
    storage = open_offline().storage("p")
    storage.state_set("p", "k", {"n": 0})
    live = storage.load_procedure_metadata("p")
    live.state["k"]["n"] = "mine"
    open_offline().storage("p").state_set("p", "k", {"n": "theirs"})
    assert storage.load_procedure_metadata("p") is live
    assert live.state == {"k": {"n": "mine"}}
    if then == "save":
        storage.save_procedure_metadata("p", live)
    else:
        storage.checkpoint_save("p", "name", 1)
    (conflict,) = storage._cache.conflicts()
    assert (conflict.key, conflict.local, conflict.remote) == ("k", {"n": "mine"}, {"n": "theirs"})
    assert open_offline().storage("p").state_get("p", "k") == {"n": "mine"}
    storage.save_procedure_metadata("p", live)
    assert storage._cache.conflicts() == [conflict]


def test_a_log_built_here_that_a_shorter_one_in_plexus_replaces_is_in_the_journal(
    plexus: Simulator, open_cache: OpenCache
) -> None:
    """Shorter than what was there before, though not shorter than ours, and PENDING: that is a reset."""
    plexus.put("p", status="PENDING", metadata={})
    ours = open_cache("ours", background=False)
    storage = ours.storage("p")
    for result in ("one", "two", "three"):
        append(storage, result)
    assert ours.flush(10)
    theirs = open_cache("theirs", background=False)
    theirs.storage("p").checkpoint_clear_all("p")
    append(theirs.storage("p"), "theirs", run_id="other")
    append(theirs.storage("p"), "theirs too", run_id="other")
    assert theirs.flush(10)
    storage.save_procedure_metadata("p", ProcedureMetadata(procedure_id="p"))
    append(storage, "built", run_id="clone")
    assert ours.flush(10)
    assert remote_results(plexus, "p") == ["theirs", "theirs too"]
    (conflict,) = ours.conflicts()
    assert [entry.result for entry in conflict.local] == ["built"]
