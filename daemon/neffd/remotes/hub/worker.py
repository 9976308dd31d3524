"""The process in which huggingface_hub and hf_xet run: `python -m neffd.remotes.hub.worker`.

One JSON request a line on standard input, answers on standard output: `{"progress": n}` while something moves, then
`{"result": …}` or `{"error": …}`. Ends when its input ends, so it never outlives the daemon. The token comes with
each request: it is neither in the environment nor in the arguments.
"""

from __future__ import annotations

import json
import os
import queue
import secrets
import sys
import threading
from typing import Any, TextIO

Request = dict[str, Any]


class Worker:
    """Serves requests one after another on `out`."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._moves = 0

    def serve(self, request: Request) -> None:
        """Do what one request asks and answer it."""
        operations = {"access": self.access, "commit": self.commit}
        try:
            self._send({"result": operations[request["op"]](request)})
        except Exception as error:  # the boundary of the process: every failure becomes an answer
            self._send({"error": describe(error)})

    def moved(self, *_: Any) -> None:
        """Tell the daemon that something still moves."""
        self._moves += 1
        self._send({"progress": self._moves})

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
            if error.response is None or error.response.status_code not in (401, 403):
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
    """An error as the daemon needs it: the kind, and what the Hub said."""
    response = getattr(error, "response", None)
    headers = getattr(response, "headers", {})
    return {
        "kind": type(error).__name__,
        "status": getattr(response, "status_code", None),
        "code": headers.get("X-Error-Code", ""),
        "rate_limit": headers.get("RateLimit", ""),
        "retry_after": headers.get("Retry-After", ""),
        "message": (getattr(error, "server_message", None) or "")[:300],
    }


def report_progress(worker: Worker) -> None:
    """Every HTTP call and every step of a transfer counts as a sign of life."""
    import httpx2
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _xet_progress_reporting as reporting

    hooks: dict[str, list[Any]] = {"request": [worker.moved], "response": [worker.moved]}
    set_client_factory(lambda: httpx2.Client(event_hooks=hooks, follow_redirects=True, timeout=75))
    reporter: Any = reporting.XetUploadProgressReporter
    stock = reporter.update_progress

    def update_progress(self: Any, *reports: Any, **named: Any) -> None:
        worker.moved()
        stock(self, *reports, **named)

    reporter.update_progress = update_progress


def main() -> None:
    """Serve until standard input ends."""
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
    while True:
        worker.serve(requests.get())


if __name__ == "__main__":
    main()
