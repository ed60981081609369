"""Tools for working on plexus-tactus-cache: the Plexus simulator, benchmarks, crash drills."""
