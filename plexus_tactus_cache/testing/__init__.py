"""What tests of code that uses the cache need: a Plexus that fails on demand, fixtures for pytest, and no network."""
