"""Processes, forks, disks, directories and leaders that fail."""
