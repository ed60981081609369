"""`python -m tools.demo`: a real Tactus procedure; the API goes away, the worker is killed, and nothing is lost.

Exit status 0 only if every check held. With --tamper the record is spoilt before it is compared: then it must fail.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from plexus_tactus_cache import PlexusClient, ProcedureCache
from tools.demo import PROCEDURE_ID, RUN_ID, expected
from tools.demo.checks import Check, Steps, check_outcome, check_reader, check_record, check_steps
from tools.demo.plexus import PlexusProcess

AWAY_AT, KILL_AT, BACK_AT = 12, 26, 32  # steps at which something happens; the first waits for a push too
DEADLINE = 30.0  # seconds that any of it may take


class DemoFailed(Exception):
    """It did not get as far as the verdict; the message says why."""


class Demo:
    """One run, in a folder of its own."""

    def __init__(self, folder: Path, plexus: PlexusProcess) -> None:
        self._folder = folder
        self._plexus = plexus
        self._start = time.monotonic()
        self._worker: subprocess.Popen[bytes] | None = None
        variables = os.environ.items()  # whoever runs this may have a real Plexus configured
        self._environment = {name: value for name, value in variables if not name.startswith("PLEXUS_")}

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self._start:6.1f} s  {text}", flush=True)

    def run(self, *, tamper: bool) -> list[Check]:
        """The story, and what became of it."""
        plexus, steps = self._plexus, expected.STEPS
        plexus.put(PROCEDURE_ID, name="Demo", accountId="account", status="PENDING", metadata=expected.FOREIGN)
        self.say(
            f"Plexus simulator runs (process {plexus.pid}); "
            f"its record has {len(expected.FOREIGN)} keys of other writers"
        )

        self.start_worker()
        self.until(AWAY_AT)
        self.wait(lambda: self.in_plexus() > 0, "the first push")
        plexus.go_away()
        at_outage = self.in_plexus()
        self.say(f"THE API GOES AWAY: every connection is refused; Plexus has {at_outage} checkpoints")
        self.until(KILL_AT)
        self.kill_worker()
        before_kill = len(self.performed())
        self.say(f"KILL -9 of the worker during step {before_kill}; Plexus still has {self.in_plexus()} checkpoints")

        self.start_worker()
        self.wait(lambda: len(self.lives()) == 2, "the second life to begin")
        stored = self.lives()[1]["found"]
        self.say(f"with the API still away it finds {stored} checkpoints in the local store and replays them")
        self.until(BACK_AT)
        plexus.come_back()
        self.say(f"THE API IS BACK; Plexus has {self.in_plexus()} checkpoints")
        self.wait(self.finished, "the worker to finish")
        self.say(f"the procedure has finished, and its process has ended; Plexus has {self.in_plexus()} checkpoints")

        drained, writes = self.drain()
        self.say(
            f"drained by the next process that opens the store: {self.in_plexus()} of {steps} checkpoints are in Plexus"
        )
        stats = plexus.stats()
        self.say(
            f"{writes} local writes travelled in {stats['requests']} requests "
            f"({stats['bytes_received'] / 1000:.0f} kB sent, {stats['bytes_sent'] / 1000:.0f} kB received)"
        )
        if tamper:
            metadata = plexus.record(PROCEDURE_ID)["metadata"]
            metadata["checkpoints"]["000020:explicit_checkpoint"]["result"]["label"] = "spoilt"
            plexus.put(PROCEDURE_ID, metadata=metadata)
            self.say("--tamper: one checkpoint in Plexus was spoilt; the verdict has to be LOST")

        found = Steps(self.performed(), before_kill, stored)
        self.say(self.about_repeats(found))
        return [
            *check_steps(found),
            check_outcome(json.loads((self._folder / "outcome.json").read_text())),
            drained,
            *check_record(plexus.read(PROCEDURE_ID)),
            *check_reader(self.read_with_an_empty_cache()),
        ]

    # --- the worker ---------------------------------------------------------------------------------------

    def start_worker(self) -> None:
        with (self._folder / "worker.log").open("ab") as log:
            self._worker = subprocess.Popen(
                [sys.executable, "-m", "tools.demo.worker", self._plexus.url, self._plexus.key, str(self._folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
            )
        self.say(f"the worker starts (process {self._worker.pid}, run {RUN_ID!r})")

    def kill_worker(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker.wait()

    def finished(self) -> bool:
        return self._status() is not None

    def _status(self) -> int | None:
        """The worker's exit status, None while it runs. Raises DemoFailed when it is not 0."""
        status = self._worker.poll() if self._worker is not None else None
        if status:
            log = (self._folder / "worker.log").read_text(errors="replace")
            raise DemoFailed(f"the worker ended with status {status}:\n{log[-3000:]}")
        return status

    def performed(self) -> list[int]:
        """The steps that were really performed: the lines of the side-effect file."""
        path = self._folder / "steps.txt"
        return [int(line) for line in path.read_text().splitlines()] if path.exists() else []

    def lives(self) -> list[dict[str, Any]]:
        path = self._folder / "lives.txt"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def until(self, step: int) -> None:
        """Wait until that step has begun."""
        self.wait(lambda: step in self.performed(), f"step {step}")

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for `condition`. Raises DemoFailed after DEADLINE seconds, or when the worker fails."""
        deadline = time.monotonic() + DEADLINE
        while not condition():
            self._status()
            if time.monotonic() > deadline:
                raise DemoFailed(f"waited {DEADLINE:.0f} s for {what}")
            time.sleep(0.005)

    # --- Plexus -------------------------------------------------------------------------------------------

    def in_plexus(self) -> int:
        """How many checkpoints Plexus has."""
        return len(self._plexus.record(PROCEDURE_ID)["metadata"].get("checkpoints") or {})

    def drain(self) -> tuple[Check, int]:
        """Wait until everything written is in Plexus: whether it is, and how many writes there were."""
        with ProcedureCache(PlexusClient(self._plexus.url, self._plexus.key), self._folder / "store") as cache:
            flushed, status = cache.flush(DEADLINE), cache.status()
            writes = sum(procedure.version for procedure in cache.procedures())
        clean = flushed and not status.dirty and not status.parked
        return Check("the cache says that nothing is pending", None if clean else f"it says {status}"), writes

    def read_with_an_empty_cache(self) -> dict[str, Any]:
        command = [
            sys.executable,
            "-m",
            "tools.demo.reader",
            self._plexus.url,
            self._plexus.key,
            str(self._folder / "second"),
        ]
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, timeout=DEADLINE, check=False
        )
        if done.returncode:
            raise DemoFailed(f"the second cache could not read Plexus:\n{done.stderr[-3000:]}")
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def about_repeats(self, steps: Steps) -> str:
        repeated = ", ".join(map(str, steps.repeated))
        if not repeated:
            return f"{len(steps.performed)} steps performed, none of them twice"
        return (
            f"{len(steps.performed)} performances of {expected.STEPS} steps: step {repeated} ran twice "
            "(it was in flight at the kill, so nothing could know its result)"
        )


class _Narrator(logging.Handler):
    """What the cache logs becomes a part of the timeline."""

    def __init__(self, demo: Demo) -> None:
        super().__init__(logging.WARNING)
        self._demo = demo

    def emit(self, record: logging.LogRecord) -> None:
        self._demo.say(f"(the cache: {record.getMessage()})")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.demo", description=__doc__)
    parser.add_argument(
        "--tamper", action="store_true", help="spoil the record before comparing: the verdict must be LOST"
    )
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="plexus-tactus-demo-"))
    try:
        with PlexusProcess() as plexus:
            demo = Demo(folder, plexus)
            logging.getLogger("plexus_tactus_cache").addHandler(_Narrator(demo))
            try:
                checks = demo.run(tamper=options.tamper)
            finally:
                demo.kill_worker()
    except DemoFailed as error:
        print(f"\nVERDICT: FAILED before the end: {error}\n(everything is kept in {folder})")
        return 1
    print()
    for check in checks:
        verdict = "ok  " if check.problem is None else "LOST"
        print(f"  {verdict}  {check.name}{f': {check.problem}' if check.problem else ''}")
    lost = [check for check in checks if check.problem is not None]
    if lost:
        print(f"\nVERDICT: LOST. {len(lost)} of {len(checks)} checks failed (everything is kept in {folder})")
        return 1
    shutil.rmtree(folder)
    print(f"\nVERDICT: NOTHING LOST. All {len(checks)} checks hold")
    return 0


if __name__ == "__main__":
    sys.exit(main())
