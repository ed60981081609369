"""Where requests may go: to https:// URLs, and to http:// ones on this machine."""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urljoin, urlsplit

from plexus_tactus_cache.settings import CacheSettings

API_URL = "the API URL (PLEXUS_API_URL)"


def refusal_of(url: str, allow_http: bool | None, name: str = API_URL) -> str | None:
    """Why nothing is sent to `url`, and the way out; None if it may be.

    It says nothing of the URL but its host: the rest may hold a password. `allow_http` None: as
    PLEXUS_CACHE_ALLOW_HTTP says; raises pydantic's ValidationError for that variable.
    """
    parts = _parsed(url) if isinstance(url, str) else None
    if parts is None or parts.scheme not in ("https", "http") or not parts.hostname:
        return f"{name} is not a valid https:// URL"
    if "@" in parts.netloc:
        return f"{name} has a user or a password in it, for {parts.hostname}: take them out, only the API key is sent"
    if parts.scheme == "https" or _is_loopback(parts.hostname):
        return None
    if CacheSettings().allow_http if allow_http is None else allow_http:
        return None
    return (
        f"{name} is http://, and {parts.hostname} is not this machine: anyone on the way could read what is sent. Make "
        "it https://, or allow it with the setting allow_http (PLEXUS_CACHE_ALLOW_HTTP=1)"
    )


def origin_of(url: str, location: str) -> str:
    """Where the redirect `location` of `url` leads: scheme, host and port; the rest may hold a token."""
    try:
        parts = _parsed(urljoin(url, location))
    except ValueError:
        parts = None
    if parts is None or not parts.hostname:
        return "elsewhere"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _parsed(url: str) -> SplitResult | None:
    """None for what libraries might not read alike: white space, control characters, backslashes, odd ports."""
    if not url.isprintable() or any(character in url for character in " \\"):
        return None
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, or a form such as 127.1, that resolves to whatever
        return False
