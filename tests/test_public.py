"""The public names, which the design fixes."""

from __future__ import annotations

import subprocess
import sys

import plexus_tactus_cache

FIXED = """PlexusStorageAdapter ProcedureCache PlexusClient CacheSettings ProcedureMetadata CheckpointEntry SourceLocation
    CacheStatus ProcedureStatus SyncReport Conflict StorageError ProcedureNotFound ValueNotSerializable CacheCorrupted
    CacheClosed RemoteUnavailable RunSuperseded"""


def test_all_says_what_is_there() -> None:
    public = set(plexus_tactus_cache.__all__)
    assert set(FIXED.split()) <= public
    assert list(plexus_tactus_cache.__all__) == sorted(public)
    for name in public:
        found = getattr(plexus_tactus_cache, name)
        assert found.__doc__, name
        if isinstance(found, type) and issubclass(found, Exception):
            assert issubclass(found, plexus_tactus_cache.StorageError)


def test_the_core_imports_neither_tactus_nor_boto3() -> None:
    script = (
        "import plexus_tactus_cache, sys; print([one for one in ('tactus', 'boto3', 'rich') if one in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
