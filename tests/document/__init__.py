"""Behaviour of each module, one at a time."""
