"""The reader: what an empty cache in a new process and a new directory gets from Plexus, as JSON."""

from __future__ import annotations

import json
import sys

from plexus_tactus_cache import CacheSettings, PlexusClient, ProcedureCache
from tools.demo import PROCEDURE_ID


def main(url: str, key: str, directory: str) -> None:
    settings = CacheSettings(on_unreachable="raise", load_timeout=10)  # never mistake "no answer" for "empty"
    with ProcedureCache(PlexusClient(url, key), directory, settings) as cache:
        metadata = cache.storage(PROCEDURE_ID).load_procedure_metadata(PROCEDURE_ID)
        entries = metadata.execution_log
        found = {
            "results": [entry.result for entry in entries],
            "runs": sorted({entry.run_id for entry in entries}),
            "state": metadata.state,
            "status": metadata.status,
        }
        print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3])
