"""The local store: documents as rows of one SQLite database, in a directory of this machine."""

from plexus_tactus_cache.store.local.directory import chosen, unusable, unwritable
from plexus_tactus_cache.store.local.examine import examine
from plexus_tactus_cache.store.local.marker import holds_store
from plexus_tactus_cache.store.local.salvage import salvage
from plexus_tactus_cache.store.local.store import LocalStore

__all__ = ["LocalStore", "chosen", "examine", "holds_store", "salvage", "unusable", "unwritable"]
