"""Files as they arrive: whole and as stated, or refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neffd.remotes.base import RemoteFile, SpoiltOnTheWay
from neffd.remotes.hub.files import IncomingFile
from neffd.remotes.provenance import FileDigest
from tests.hub.gitobjects import blob_id

DATA = b"some content"
SHA256 = hashlib.sha256(DATA).hexdigest()


def stated(data: bytes, *, large: bool) -> RemoteFile:
    sha256 = hashlib.sha256(data).hexdigest()
    return RemoteFile("f", len(data), sha256) if large else RemoteFile("f", len(data), git_sha1=blob_id(data))


@given(st.lists(st.binary(max_size=40)), st.booleans())
def test_pieces_of_any_size_make_the_file(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], large: bool
) -> None:
    path = tmp_path_factory.mktemp("in") / "f"
    data = b"".join(pieces)
    incoming = IncomingFile(path, stated(data, large=large))
    try:
        for piece in pieces:
            incoming.write(piece)
        assert incoming.finish() == FileDigest(len(data), hashlib.sha256(data).hexdigest())
    finally:
        incoming.close()
    assert path.read_bytes() == data


@pytest.mark.parametrize("large", [True, False])
@pytest.mark.parametrize(
    ("arrived", "reason"),
    [(b"x" * len(DATA), "digest-mismatch"), (DATA[:-1], "size-mismatch"), (b"", "size-mismatch")],
)
def test_what_is_not_as_stated_is_refused(tmp_path: Path, large: bool, arrived: bytes, reason: str) -> None:
    incoming = IncomingFile(tmp_path / "f", stated(DATA, large=large))
    incoming.write(arrived)
    with pytest.raises(SpoiltOnTheWay) as refused:
        incoming.finish()
    incoming.close()
    assert refused.value.reason == reason


def test_more_than_stated_never_reaches_the_disk(tmp_path: Path) -> None:
    incoming = IncomingFile(tmp_path / "f", stated(DATA, large=True))
    incoming.write(DATA)
    with pytest.raises(SpoiltOnTheWay, match="longer"):
        incoming.write(b"!")
    incoming.close()
    assert (tmp_path / "f").read_bytes() == DATA


def test_without_a_stated_digest_the_size_decides(tmp_path: Path) -> None:
    incoming = IncomingFile(tmp_path / "f", RemoteFile("f", len(DATA)))
    incoming.write(DATA)
    assert incoming.finish().sha256 == SHA256
    incoming.close()


def test_a_piece_that_comes_after_the_end_is_dropped(tmp_path: Path) -> None:
    incoming = IncomingFile(tmp_path / "f", stated(DATA, large=True))
    incoming.close()
    incoming.write(DATA)
    assert not (tmp_path / "f").exists()


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"mine")
    incoming = IncomingFile(tmp_path / "f", stated(DATA, large=True))
    with pytest.raises(FileExistsError):
        incoming.write(DATA)
    incoming.close()
    assert (tmp_path / "f").read_bytes() == b"mine"


def test_an_empty_file(tmp_path: Path) -> None:
    incoming = IncomingFile(tmp_path / "f", stated(b"", large=False))
    assert incoming.finish() == FileDigest(0, hashlib.sha256(b"").hexdigest())
    incoming.close()
    assert (tmp_path / "f").read_bytes() == b""
