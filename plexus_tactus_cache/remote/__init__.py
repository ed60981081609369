"""Plexus and S3 over the network: requests, answers, and what failures mean."""
