"""Tools for working on plexus-tactus-cache: benchmarks, a demonstration, what is sent."""
