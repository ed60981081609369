"""The worker: one life of the procedure, in a process that may be killed at any moment.

It writes into its folder: `steps.txt`, a line for each step that is really performed (the side effect), and
`lives.txt`, a line of JSON for each start with the number of checkpoints found in the local store.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

from tactus.core.runtime import TactusRuntime

from plexus_tactus_cache import PlexusClient, PlexusStorageAdapter
from tools.demo import PROCEDURE_ID, RUN_ID

PAUSE = 0.1  # seconds that a step takes, so that there is a middle to interrupt


def append(path: Path, line: str) -> None:
    """Add a line that is in the kernel when this returns: it outlives the process, as a real side effect does."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, f"{line}\n".encode())
    finally:
        os.close(file)


class Host:
    """What the procedure may call."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def perform(self, step: int) -> None:
        """The side effect of a step, and its work."""
        append(self._folder / "steps.txt", str(step))
        time.sleep(PAUSE)


def main(url: str, key: str, folder: Path) -> int:
    storage = PlexusStorageAdapter(PlexusClient(url, key), PROCEDURE_ID, directory=folder / "store")
    found = len(storage.load_procedure_metadata(PROCEDURE_ID).execution_log)
    append(folder / "lives.txt", json.dumps({"pid": os.getpid(), "found": found}))
    runtime = TactusRuntime(PROCEDURE_ID, storage_backend=storage, run_id=RUN_ID)
    runtime.register_python_module("demo", Host(folder))
    source = Path(__file__).with_name("procedure.tac").read_text()
    outcome = asyncio.run(runtime.execute(source, format="lua"))
    if not outcome["success"]:
        print(f"the procedure failed: {outcome.get('error')}", file=sys.stderr)
        return 1
    (folder / "outcome.json").write_text(json.dumps(outcome["result"]))
    storage.update_procedure_status(PROCEDURE_ID, "COMPLETED")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
