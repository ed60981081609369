"""What was a Lua table, told apart from a dict or a list of Python's.

A stored result belongs to no Lua runtime, so a table in it comes back as a dict or a list. These subclasses remember
that it was a table; they equal, print and serialise like what they are. Only the outermost of nested tables is marked:
inside it a plain dict or list was a table as well, and one of Python's is marked instead.
"""

from __future__ import annotations

from typing import Any


class LuaDict(dict[Any, Any]):
    """A table with other keys than 1..n, or an empty one."""


class LuaList(list[Any]):
    """A table with the keys 1..n."""


class PythonDict(dict[Any, Any]):
    """A dict inside a table."""


class PythonList(list[Any]):
    """A list inside a table."""


TABLES = (LuaDict, LuaList)
