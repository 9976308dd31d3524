"""Downloads from the chunk store, in the worker process: hf_xet's own calls, many files as one group."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

Request = dict[str, Any]
Result = dict[str, Any]
# Takes `[index, bytes]` of each file that grew; nothing where what is no file yet did.
Moved = Callable[[list[list[int]]], None]


def download(request: Request, moved: Moved) -> Result:
    """Contents by Xet hash, `[xet_hash, size_bytes, target]` each, the most urgent first.

    `token` is a short-lived one for the chunk store at `store`; the Hub's own is not needed here. The result names, as
    `missing`, the indices of those that did not come while others did; raises where none came.
    """
    indices: dict[Any, int] = {}
    under_way: list[Any] = []
    done_bytes = [0] * len(request["files"])
    seen_bytes = 0

    def on_progress(group: Any, files: dict[Any, Any]) -> None:
        """hf_xet reports ten times a second, moving or not. A file grows by whole blocks, of up to 64 MB."""
        nonlocal seen_bytes
        grown, before_bytes, seen_bytes = [], seen_bytes, group.total_transfer_bytes_completed
        for task_id, file in files.items():
            index = indices.get(task_id)
            if index is not None and file.bytes_completed > done_bytes[index]:
                grown.append([index, file.bytes_completed - done_bytes[index]])
                done_bytes[index] = file.bytes_completed
        if grown or seen_bytes != before_bytes:
            moved(grown)

    try:
        with _session().new_file_download_group(
            endpoint=request["store"],
            token=request["token"],
            token_expiry_unix_secs=request["expires_unix_s"],
            progress_callback=on_progress,
        ) as group:
            for index, (xet_hash, size_bytes, target) in enumerate(request["files"]):
                task = group.start_download_file(_file_info(xet_hash, size_bytes), target)
                indices[task.task_id()] = index
                under_way.append(task)
    except Exception:  # one that fails is raised as the failure of all, once the others came
        came = {index for index, task in enumerate(under_way) if _has_come(task)}
        if not came:
            raise
        return {"missing": [index for index in range(len(request["files"])) if index not in came]}
    return {"missing": []}


def _has_come(task: Any) -> bool:
    try:
        return task.try_result() is not None
    except Exception:  # hf_xet's own, of many kinds
        return False


@functools.cache
def _session() -> Any:
    """One for the life of the process: it holds connections and threads."""
    import hf_xet

    make: Any = hf_xet.XetSession
    return make()


def _file_info(xet_hash: str, size_bytes: int) -> Any:
    import hf_xet

    make: Any = hf_xet.XetFileInfo
    return make(xet_hash, size_bytes)
