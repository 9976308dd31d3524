"""How the worker tells what went wrong in huggingface_hub and hf_xet."""

from __future__ import annotations

import pytest

from neffd.remotes.hub.worker import LFS_ERROR, describe
from neffd.remotes.hub.workers import HubCallFailed

# As hf_xet 1.8 and huggingface_hub 2.4 word them.
XET = "Network error: Request error: HTTP status client error (403 Forbidden), domain: http://cas.example/v1/xorbs/x"
XET_BUSY = "Rate limited: Request error: HTTP status client error (429 Too Many Requests), domain: no-url"
XET_LOST = "Network error: Request middleware error: error sending request for url (http://cas.example/v2/shards)"
LFS = "LFS batch API returned errors:\nEncountered error for file with OID 12ab: `not allowed"


@pytest.mark.parametrize(
    ("error", "kind", "status", "code", "in_upload"),
    [
        (ConnectionError(XET), "ConnectionError", 403, "", True),
        (RuntimeError(XET), "RuntimeError", 403, "", True),
        (ConnectionError(XET_BUSY), "ConnectionError", 429, "", True),
        (ConnectionError(XET_LOST), "ConnectionError", None, "", False),
        (ConnectionResetError(), "ConnectionError", None, "", False),
        (ValueError(LFS), "ValueError", None, LFS_ERROR, False),
        (ValueError("something else"), "ValueError", None, "", False),
    ],
    ids=str,
)
def test_errors_without_an_answer(error: Exception, kind: str, status: int | None, code: str, in_upload: bool) -> None:
    told = HubCallFailed(describe(error))
    assert (told.kind, told.status, told.code, told.in_upload) == (kind, status, code, in_upload)


def test_what_stopped_an_upload_is_told_not_who_noticed() -> None:
    wrapper = RuntimeError("Error while uploading 'a/model.neff' to the Hub.")
    wrapper.__cause__ = ConnectionError(XET)
    assert HubCallFailed(describe(wrapper)).status == 403


def test_a_text_for_logs_is_only_kept_from_the_hub() -> None:
    assert HubCallFailed(describe(FileNotFoundError("/secret/path"))).message == ""
