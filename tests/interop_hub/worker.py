"""A process that calls huggingface_hub as it is told: one JSON line in, one JSON line out.

Its environment decides which Hub, which caches and whether Xet is used, as these are read at import.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi, RepoUrl


def _content(value: dict[str, str]) -> bytes:
    return base64.b64decode(value["$bytes"])


def _decode(value: Any) -> Any:
    """Turn marked JSON values into the client's own types."""
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "$bytes" in value:
        return _content(value)
    if "$file_object" in value:
        return io.BytesIO(_content(value["$file_object"]))
    if "$add" in value:
        return CommitOperationAdd(path_in_repo=value["$add"], path_or_fileobj=_decode(value["content"]))
    if "$delete" in value:
        return CommitOperationDelete(path_in_repo=value["$delete"])
    if "$copy" in value:
        return CommitOperationCopy(value["$copy"], value["to"], **value.get("source", {}))
    if "$tuple" in value:
        return tuple(_decode(item) for item in value["$tuple"])
    return {name: _decode(item) for name, item in value.items()}


def _encode(value: Any) -> Any:
    """Turn the client's answers into JSON values."""
    if isinstance(value, (list, tuple, set, Iterator)):
        return [_encode(item) for item in value]
    if isinstance(value, dict):
        return {name: _encode(item) for name, item in value.items()}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, (Path, RepoUrl)):
        return str(value)
    if dataclasses.is_dataclass(value) or hasattr(value, "__dict__"):
        return {name: _encode(item) for name, item in vars(value).items()}
    return value


def _outcome(api: HfApi, call: dict[str, Any]) -> dict[str, Any]:
    token = call.get("token")
    client = api if token is None else HfApi(endpoint=api.endpoint, token=token)
    try:
        method = getattr(client, call["method"])
        return {"result": _encode(method(**_decode(call["arguments"])))}
    except Exception as error:
        response = getattr(error, "response", None)
        failures = getattr(error, "failures", None)
        return {
            "error": type(error).__name__,
            "bases": [base.__name__ for base in type(error).__mro__],
            "message": str(error),
            "status": getattr(response, "status_code", None),
            "failures": _encode(failures),
        }


def main() -> None:
    api = HfApi(endpoint=os.environ["HF_ENDPOINT"], token=os.environ["HF_TOKEN"])
    # The client may print; only answers may reach the pipe.
    answers, sys.stdout = sys.stdout, sys.stderr
    print(json.dumps({"ready": True}), file=answers, flush=True)
    with ThreadPoolExecutor(max_workers=16) as pool:
        for line in sys.stdin:
            # All calls of one line run at the same time.
            outcomes = list(pool.map(lambda call: _outcome(api, call), json.loads(line)))
            print(json.dumps(outcomes), file=answers, flush=True)


if __name__ == "__main__":
    main()
