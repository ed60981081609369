"""Stores, and what a local one is made of."""
