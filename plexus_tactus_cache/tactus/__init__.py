"""DurableRuntime: Tactus's runtime, whose runs go on where they were interrupted. Needs Tactus."""

from plexus_tactus_cache.tactus.runtime import DurableRuntime, belongs_to, last_run

__all__ = ["DurableRuntime", "belongs_to", "last_run"]
