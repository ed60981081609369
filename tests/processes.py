"""A Python process that a test drives statement by statement."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parent.parent

_SERVE = """
import json, sys
names = {}
exec("import datetime as dt\\nfrom plexus_tactus_cache import *", names)
for line in sys.stdin:
    source = json.loads(line)
    try:
        try:
            answer = {"value": eval(source, names)}
        except SyntaxError:
            exec(source, names)
            answer = {"value": None}
    except Exception as error:
        answer = {"error": type(error).__name__, "text": str(error)}
    print(json.dumps(answer, default=repr), flush=True)
"""


class ProcessError(AssertionError):
    """What a statement raised in the other process."""

    def __init__(self, kind: str, text: str) -> None:
        self.kind = kind
        super().__init__(f"{kind}: {text}")


class Process:
    """`do` runs a statement in the other process, or evaluates an expression to what JSON makes of it.

    The names of the package are there, and `dt`.
    """

    def __init__(self, *statements: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        for statement in statements:
            self.do(statement)

    def tell(self, source: str) -> None:
        """Send a statement; `answer` waits for what came of it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(source) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """What the last statement returned. Raises ProcessError for what it raised."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process ended"
        answer = json.loads(line)
        if "error" in answer:
            raise ProcessError(answer["error"], answer["text"])
        return answer["value"]

    def do(self, source: str) -> Any:
        """Run a statement."""
        self.tell(source)
        return self.answer()

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.wait(30)

    def suspend(self) -> None:
        """It lives, holds its locks, and does nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """After `suspend`."""
        self._process.send_signal(signal.SIGCONT)

    def end(self, seconds: float = 60) -> int:
        """Let it end as a script does that has nothing more to do: its exit status."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._process.wait(seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def opened(directory: Path, url: str | None = None, key: str = "da2-simulator", **settings: Any) -> str:
    """The statement that opens a cache, as `cache`; without a `url` it has no client."""
    given = {"push_interval": 0.05, "max_backoff": 0.5, "close_timeout": 5, **settings}
    client = None if url is None else f"PlexusClient({url!r}, {key!r}, timeout=2)"
    return f"cache = ProcedureCache({client}, {str(directory)!r}, CacheSettings(**{given!r}))"


def script(source: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A whole script in a process of its own, with `variables` in its environment."""
    command = [sys.executable, *(["-c", source] if source else []), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env=environment(**variables)
    )


def environment(**variables: str) -> dict[str, str]:
    """Ours, with this checkout's package, without what says where Plexus is."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PLEXUS_")}
    return {**kept, "PYTHONPATH": str(ROOT), **variables}
