"""Several changes in one call into C: no signal handler runs, and no other thread, between the first and the last.

So what a live object shows and what is known of it never part, whatever interrupts.
"""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable
from itertools import starmap
from typing import Any

Call = tuple[Callable[..., Any], *tuple[Any, ...]]  # of something written in C, as are dict.update and setattr


def at_once(*calls: Call) -> None:
    """Make these calls, each a function and its arguments."""
    deque(starmap(operator.call, calls), maxlen=0)
