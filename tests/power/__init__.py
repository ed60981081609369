"""Power cuts: what was written and synced is recorded, and cut-off and torn versions of it are opened and judged."""
