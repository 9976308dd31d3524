"""Where the cache is."""

from __future__ import annotations

import os

from libneuronxla.libncc import setup_args

DEFAULT_CACHE = "/var/tmp/neuron-compile-cache"


class CacheUrl:
    def __init__(self, url: str, url_type: str = "fs") -> None:
        self.url = url.removeprefix("file://") if url_type == "fs" else url
        self.url_type = url_type

    @staticmethod
    def get_cache_url(cache_dir: str | None = None) -> CacheUrl:
        url = cache_dir or setup_args()[0].cache_dir or os.environ.get("NEURON_COMPILE_CACHE_URL") or DEFAULT_CACHE
        return CacheUrl(url, "s3" if url.startswith("s3://") else "fs")

    def is_s3(self) -> bool:
        return self.url_type == "s3"

    def __repr__(self) -> str:
        return f"CacheUrl({self.url!r}, url_type={self.url_type!r})"
