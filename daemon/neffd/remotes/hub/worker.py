"""The process in which huggingface_hub and hf_xet run, see `neffd.python`.

One JSON request a line on standard input, answers on standard output: `{"progress": [[file, bytes], …]}` while
something moves, then `{"result": …}` or `{"error": …}`. Ends when its input ends, so it never outlives the daemon. The
token comes with each request: it is neither in the environment nor in the arguments.
"""

from __future__ import annotations

import ctypes
import json
import os
import queue
import re
import resource
import secrets
import signal
import sys
import threading
from collections.abc import Iterable, Sequence
from typing import Any, TextIO
from urllib.parse import urlsplit

from neffd.remotes.hub import bucket_calls, xet_calls

Request = dict[str, Any]

# In place of an error code of the Hub's: it took the call, and refused a file.
LFS_ERROR = "LfsError"
_XET_STATUS = re.compile(r"HTTP status \w+ error \((?P<status>\d{3})[^)]*\)(, domain: (?P<url>\S+))?")
# Calls that only ask, though some are POSTs.
_ASKS = re.compile(r"(GET|HEAD) |POST .*(/preupload/[^/]+|/paths-info/[^/]+|/info/lfs/objects/batch)$")
_MAX_TEXT = 300
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4


class Worker:
    """Serves requests one after another on `out`."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._indices: dict[str, int] = {}
        self._done_bytes: dict[str, int] = {}

    def serve(self, request: Request) -> None:
        """Do what one request asks and answer it."""
        operations = {
            "access": self.access,
            "commit": self.commit,
            "xet-download": lambda request: xet_calls.download(request, self.moved),
            **bucket_calls.OPERATIONS,
        }
        self._indices = {file[-1]: index for index, file in enumerate(request.get("files", ()))}
        self._done_bytes = {}
        try:
            self._send({"result": operations[request["op"]](request)})
        except Exception as error:  # the boundary of the process: every failure becomes an answer
            self._send({"error": presentable(describe(error), request.get("token"))})

    def moved(self, files: Sequence[list[int]] = ()) -> None:
        """Tell the daemon that something still moves: how many bytes of which files of the request, where known."""
        self._send({"progress": list(files)})

    def grown(self, items: Iterable[Any]) -> list[list[int]]:
        """`[index, bytes]` of those files of the request that grew: hf_xet names each by its target."""
        grown = []
        for item in items:
            index, before = self._indices.get(item.item_name), self._done_bytes.get(item.item_name, 0)
            if index is not None and item.bytes_completed > before:
                self._done_bytes[item.item_name] = item.bytes_completed
                grown.append([index, item.bytes_completed - before])
        return grown

    def access(self, request: Request) -> dict[str, Any]:
        """Who may do what: asks for the repo, then to delete a branch that cannot exist."""
        from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError

        api = self._api(request)
        info = api.model_info(request["repo_id"], timeout=10, expand=["private"])
        if request["token"] is None:
            return {"public": not info.private, "can_write": False, "reason": "not-logged-in"}
        try:
            api.delete_branch(request["repo_id"], branch=f"neffd-probe-{secrets.token_hex(8)}")
        except RevisionNotFoundError:
            pass  # allowed, and nothing was there to delete
        except HfHubHTTPError as error:
            if error.response is None or error.response.status_code != 403:
                raise
            return {"public": not info.private, "can_write": False, "reason": "no-write-access"}
        return {"public": not info.private, "can_write": True, "reason": ""}

    def commit(self, request: Request) -> dict[str, Any]:
        """One commit on top of `parent`, all of it or nothing."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        operations: list[Any] = [CommitOperationDelete(path_in_repo=path) for path in request["delete"]]
        for path, source in request["add"]:
            content = source["text"].encode() if isinstance(source, dict) else source
            operations.append(CommitOperationAdd(path_in_repo=path, path_or_fileobj=content))
        done = self._api(request).create_commit(
            request["repo_id"],
            operations,
            commit_message=request["message"],
            commit_description=request["description"],
            parent_commit=request["parent"],
        )
        return {"commit": done.oid}

    def _api(self, request: Request) -> Any:
        from huggingface_hub import HfApi

        return HfApi(endpoint=request["endpoint"], token=request["token"] or False, library_name="neffd")

    def _send(self, answer: dict[str, Any]) -> None:
        with self._lock:
            self._out.write(json.dumps(answer) + "\n")
            self._out.flush()


def describe(error: BaseException) -> dict[str, Any]:
    """An error as the daemon needs it: the kind, what the Hub said, and to what.

    hf_xet tells of an answer in words only; huggingface_hub wraps what stopped an LFS upload in another error.
    """
    response = getattr(error, "response", None)
    if response is None and error.__cause__ is not None:
        return describe(error.__cause__)
    headers = getattr(response, "headers", {})
    text = getattr(error, "server_message", None) or str(error)
    told = _XET_STATUS.search(text)
    is_lfs_error = isinstance(error, ValueError) and text.startswith("LFS batch API returned errors")
    url = (told["url"] or "") if told else str(getattr(getattr(response, "request", None), "url", ""))
    return {
        "kind": "ConnectionError" if isinstance(error, ConnectionError) else type(error).__name__,
        "status": int(told["status"]) if told else getattr(response, "status_code", None),
        "code": LFS_ERROR if is_lfs_error else headers.get("X-Error-Code", ""),
        "rate_limit": headers.get("RateLimit", ""),
        "retry_after": headers.get("Retry-After", ""),
        "message": text if is_lfs_error else getattr(error, "server_message", None) or "",
        "path": urlsplit(url).path,
    }


def presentable(error: dict[str, Any], token: str | None) -> dict[str, Any]:
    """The same for logs: one short printable line each, and never the token, whatever the Hub may have echoed."""
    return {name: _clean(value, token) if isinstance(value, str) else value for name, value in error.items()}


def _clean(text: str, token: str | None) -> str:
    text = text.replace(token, "***") if token else text
    return "".join(char if char.isprintable() else " " for char in text[:_MAX_TEXT])


def keep_to_ourselves() -> None:
    """No core dump of a process that holds a token; and none of us is left when the daemon is gone, however we hang."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def report_progress(worker: Worker) -> None:
    """Every HTTP call, and whatever moves in a transfer of huggingface_hub's, is a sign of life."""
    import httpx2
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _xet_progress_reporting as reporting
    from huggingface_hub.utils._http import hf_raise_for_status

    class OneTry(httpx2.Client):
        """Every answer is final: waiting and trying again is the daemon's business, by its own clock."""

        def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
            worker.moved()
            try:
                response = self._send(request, **options)
            except httpx2.TransportError as error:
                raise ConnectionError(type(error).__name__) from None
            worker.moved()
            if response.status_code == 429 or response.status_code >= 500:
                response.read()
                hf_raise_for_status(response)
            return response

        def _send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
            """Once more at once where the server closes a kept connection, and nothing can have happened."""
            try:
                return super().send(request, **options)
            except (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError):
                if _ASKS.match(f"{request.method} {request.url.path}") is None:
                    raise
                return super().send(request, **options)

    set_client_factory(lambda: OneTry(follow_redirects=True, timeout=75))

    def update_progress(self: Any, group: Any, items: Any = None) -> None:
        """hf_xet reports ten times a second, moving or not: what counts is another sum, or a step of its checks."""
        checks = [getattr(group.shard, name) for name in dir(group.shard) if not name.startswith("_")]
        seen = (group.total_bytes_completed, group.total_transfer_bytes_completed, checks)
        if seen != getattr(self, "seen", None):
            self.seen = seen
            worker.moved(worker.grown((items or {}).values()))

    kinds: list[Any] = [reporting.XetDownloadProgressReporter, reporting.XetUploadProgressReporter]
    for kind in kinds:
        kind.update_progress = update_progress


def main() -> None:
    """Serve until standard input ends."""
    keep_to_ourselves()
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not get between our answers
    requests: queue.SimpleQueue[Request] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            requests.put(json.loads(line))
        os._exit(0)  # the daemon is gone; a transfer under way has nobody to report to

    threading.Thread(target=read, daemon=True).start()
    worker = Worker(out)
    report_progress(worker)
    worker.moved()  # the imports are done
    while True:
        worker.serve(requests.get())


if __name__ == "__main__":
    main()
