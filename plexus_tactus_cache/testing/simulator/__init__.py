"""A Plexus simulator: a real GraphQL server that behaves, and fails, as Plexus's API does.

with Simulator() as plexus:
    plexus.put("p1", name="nightly", metadata={"state": {}})
    plexus.fail("throttle_429", times=2, retry_after=1)
    ...  # point a client at plexus.url with plexus.api_key
"""

from plexus_tactus_cache.testing.simulator.document import TopField
from plexus_tactus_cache.testing.simulator.faults import FAULTS
from plexus_tactus_cache.testing.simulator.simulator import DEFAULT_API_KEY, Simulator
from plexus_tactus_cache.testing.simulator.traffic import LogEntry

__all__ = ["DEFAULT_API_KEY", "FAULTS", "LogEntry", "Simulator", "TopField"]
