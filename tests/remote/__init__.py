"""Plexus and S3 as this package talks to them, over real HTTP."""
