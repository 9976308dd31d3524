"""The environment's proxies."""

from __future__ import annotations

import functools
import urllib.request


@functools.lru_cache(maxsize=64)
def proxy_for(scheme: str, host: str) -> str | None:
    """The environment's proxy for a URL. Not by aiohttp's trust_env, which also reads ~/.netrc, anew for each request.

    As other tools read it: where no scheme is said it is one of HTTP, and one for all stands in for what is not named.
    """
    if urllib.request.proxy_bypass(host):
        return None
    given = urllib.request.getproxies().items()
    named = {kind: proxy if "://" in proxy else f"http://{proxy}" for kind, proxy in given if proxy}
    for_all = named.get("all", "")
    return named.get(scheme) or (for_all if for_all.startswith("http") else None)  # HTTP is all that we speak with one
