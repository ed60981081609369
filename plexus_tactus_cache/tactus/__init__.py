"""DurableRuntime, for those who have Tactus: its runtime, whose runs go on where they were interrupted."""

from plexus_tactus_cache.tactus.runtime import DurableRuntime, belongs_to, last_run

__all__ = ["DurableRuntime", "belongs_to", "last_run"]
