"""Operations on a bucket, in the worker process: huggingface_hub's and hf_xet's own calls.

Lists of files travel as `[path, size_bytes, xet_hash]`; a source is the path of a local file or `{"text": …}`.
"""

from __future__ import annotations

import hashlib
import itertools
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from neff import keys
from neffd.layouts import xla
from neffd.remotes.base import MAX_DOCUMENTS, is_document_path

Request = dict[str, Any]
Result = dict[str, Any]

# Of what is no document, so much is passed over before a listing of documents ends.
_MAX_SEEN = 5 * MAX_DOCUMENTS
# An answer is one line of at most a megabyte; a row of a listing has a size, a hash and punctuation beside its path.
_MAX_ANSWER_BYTES = 900_000
_REST_OF_ROW_BYTES = 100


def _access(request: Request) -> Result:
    """Who may do what: asks for the bucket, then to delete a file that cannot exist."""
    from huggingface_hub.errors import HfHubHTTPError

    api = _api(request)
    is_public = not api.bucket_info(request["bucket"]).private
    if request["token"] is None:
        return {"public": is_public, "can_write": False, "reason": "not-logged-in"}
    try:
        api.batch_bucket_files(request["bucket"], delete=[f"neffd-probe-{secrets.token_hex(8)}"])
    except HfHubHTTPError as error:
        if error.response is None or error.response.status_code != 403:
            raise
        return {"public": is_public, "can_write": False, "reason": "no-write-access"}
    return {"public": is_public, "can_write": True, "reason": ""}


def _list(request: Request) -> Result:
    """Digest of a namespace's listing, and its ready keys, written one a line to the file `into`.

    The digest is a sum over the files, so that it does not depend on their order; only keys stay in memory.
    """
    began_s = time.monotonic()
    namespace = request["namespace"]
    mark = keys.ready_mark(namespace)
    total = count = 0
    with_neff: set[str] = set()
    with_mark: set[str] = set()
    # The prefix is plain text: without the slash it would match other versions too.
    for file in _api(request).list_bucket_tree(request["bucket"], f"{namespace}/", recursive=True):
        line = f"{file.path}\0{file.size}\0{file.xet_hash}".encode()
        total = (total + int.from_bytes(hashlib.sha256(line).digest(), "big")) % (1 << 256)
        count += 1
        key, slash, name = file.path.removeprefix(f"{namespace}/").partition("/")
        if slash and name == xla.NEFF and file.size > 0 and keys.is_module_key(key):
            with_neff.add(key)
        if slash and name == mark and keys.is_module_key(key):
            with_mark.add(key)
    with open(request["into"], "w") as writer:
        writer.writelines(f"{key}\n" for key in with_neff & with_mark)
    return {"digest": f"{total:x}", "files": count, "took_s": time.monotonic() - began_s}


def _namespaces(request: Request) -> Result:
    found = _api(request).list_bucket_tree(request["bucket"], recursive=False)
    names = (item.path for item in found if item.type == "directory")
    return {"namespaces": sorted(filter(keys.is_namespace, names))}


def _documents(request: Request) -> Result:
    """The documents below `folder`, as far as a listing goes."""
    found = _api(request).list_bucket_tree(request["bucket"], f"{request['folder']}/", recursive=True)
    files = (item for item in itertools.islice(found, _MAX_SEEN) if item.type == "file" and is_document_path(item.path))
    listed: list[list[Any]] = []
    size_bytes = 0
    for file in itertools.islice(files, MAX_DOCUMENTS):
        size_bytes += len(file.path) + _REST_OF_ROW_BYTES
        if size_bytes > _MAX_ANSWER_BYTES:
            break
        listed.append([file.path, file.size, file.xet_hash])
    return {"files": listed}


def _look(request: Request) -> Result:
    """Those of `paths` that exist."""
    found = _api(request).get_bucket_paths_info(request["bucket"], request["paths"])
    return {"files": [[file.path, file.size, file.xet_hash] for file in found]}


def _read(request: Request) -> Result:
    """The texts of small files, by Xet hash; None for what is no text."""
    with tempfile.TemporaryDirectory(dir=request["scratch"]) as scratch:
        local = {xet_hash: Path(scratch) / xet_hash for _, _, xet_hash in request["files"]}
        _download({**request, "files": [[*file, str(local[file[2]])] for file in request["files"]]})
        return {"texts": {xet_hash: _text(path) for xet_hash, path in local.items()}}


def _download(request: Request) -> Result:
    """Contents by Xet hash, whatever the paths hold by now: `[path, size_bytes, xet_hash, target]` each."""
    import huggingface_hub

    make: Any = huggingface_hub.BucketFile
    wanted = [
        (make(type="file", path=path, size=size_bytes, xetHash=xet_hash), target)
        for path, size_bytes, xet_hash, target in request["files"]
    ]
    _api(request).download_bucket_files(request["bucket"], wanted)
    return {}


def _hash(request: Request) -> Result:
    """Xet hashes of `sources`, in order."""
    import hf_xet

    with tempfile.TemporaryDirectory(dir=request["scratch"]) as scratch:
        paths = list(_as_paths(request["sources"], Path(scratch)))
        return {"hashes": [found.hash for found in hf_xet.hash_files(paths)]}


def _write(request: Request) -> Result:
    """Two batches: `first` and what to delete, then `last`; no mark for an entry of which a file was refused."""
    failed = _batch(request, request["first"], request["delete"])
    folders = {path.rpartition("/")[0] for path in failed}
    last = [item for item in request["last"] if item[0].rpartition("/")[0] not in folders]
    return {"failed": sorted({*failed, *_batch(request, last, [])})}


def _batch(request: Request, add: list[Any], delete: list[str]) -> list[str]:
    """One batch; returns the paths that the Hub refused."""
    from huggingface_hub.errors import BucketBatchError

    if not add and not delete:
        return []
    sources = [(source["text"].encode() if isinstance(source, dict) else source, path) for path, source in add]
    try:
        _api(request).batch_bucket_files(request["bucket"], add=sources, delete=delete)
    except BucketBatchError as error:
        return [failure["path"] for failure in error.failures]
    return []


def _as_paths(sources: Iterable[Any], scratch: Path) -> Iterator[str]:
    for number, source in enumerate(sources):
        if isinstance(source, dict):
            path = scratch / str(number)
            path.write_text(source["text"])
            yield str(path)
        else:
            yield source


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return None


def _api(request: Request) -> Any:
    from huggingface_hub import HfApi

    return HfApi(endpoint=request["endpoint"], token=request["token"] or False, library_name="neffd")


OPERATIONS: dict[str, Callable[[Request], Result]] = {
    "bucket-access": _access,
    "bucket-list": _list,
    "bucket-namespaces": _namespaces,
    "bucket-documents": _documents,
    "bucket-look": _look,
    "bucket-read": _read,
    "bucket-download": _download,
    "bucket-hash": _hash,
    "bucket-write": _write,
}
