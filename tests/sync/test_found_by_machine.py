"""What the state machine found, each reduced to a few steps and named by the rule that was broken."""

from __future__ import annotations

from conftest import OpenCache
from helpers import append, parked_reason, remote_results

from plexus_tactus_cache import ProcedureCache
from tools.simulator import Simulator


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
