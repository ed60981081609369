"""The public names of an offline-tolerant write-behind cache, the storage backend of Tactus procedures in Plexus."""

from plexus_tactus_cache.adapter import PlexusStorageAdapter
from plexus_tactus_cache.cache import ProcedureCache
from plexus_tactus_cache.document.models import CheckpointEntry, ProcedureMetadata, SourceLocation
from plexus_tactus_cache.document.reports import CacheStatus, Conflict, ProcedureStatus, SyncReport
from plexus_tactus_cache.errors import (
    CacheClosed,
    CacheCorrupted,
    ConflictNotFound,
    ConflictOutdated,
    EndpointMismatch,
    InvalidArgument,
    InvalidClient,
    LeaseLost,
    LocalStoreError,
    OutOfResources,
    ProcedureNotFound,
    RemoteUnavailable,
    ReplayDiverged,
    RunNotFound,
    RunSuperseded,
    StillNeeded,
    StorageError,
    StoreBusy,
    StoreFull,
    StoreReadOnly,
    ValueNotSerializable,
    WrongType,
)
from plexus_tactus_cache.remote.client import OFFLINE, PlexusClient
from plexus_tactus_cache.settings import CacheSettings

__all__ = [  # noqa: RUF022  # by the alphabet alone, constants too: who looks a name up need not know what it is
    "CacheClosed",
    "CacheCorrupted",
    "CacheSettings",
    "CacheStatus",
    "CheckpointEntry",
    "Conflict",
    "ConflictNotFound",
    "ConflictOutdated",
    "EndpointMismatch",
    "InvalidArgument",
    "InvalidClient",
    "LeaseLost",
    "LocalStoreError",
    "OFFLINE",
    "OutOfResources",
    "PlexusClient",
    "PlexusStorageAdapter",
    "ProcedureCache",
    "ProcedureMetadata",
    "ProcedureNotFound",
    "ProcedureStatus",
    "RemoteUnavailable",
    "ReplayDiverged",
    "RunNotFound",
    "RunSuperseded",
    "SourceLocation",
    "StillNeeded",
    "StorageError",
    "StoreBusy",
    "StoreFull",
    "StoreReadOnly",
    "SyncReport",
    "ValueNotSerializable",
    "WrongType",
]
