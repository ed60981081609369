"""Tests of the Plexus simulator: each fact of the real API, over real HTTP."""
