"""Whose token is used, and that a changed one is used at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from neffd.config import RemoteConfig
from neffd.remotes.base import RemoteUnavailable
from neffd.remotes.hub.client import HubClient
from neffd.remotes.hub.tokens import TokenSource
from neffd.remotes.opening import open_remote
from tests.hub import HubServer
from tests.unit.remotes.hub.conftest import REPO


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_the_order_of_sources(tmp_path: Path) -> None:
    given = write(tmp_path / "given", "of-the-file")
    home, cache = tmp_path / "home", tmp_path / "cache"
    write(home / "token", "of-the-home")
    write(cache / "huggingface" / "token", "of-the-cache")
    environ = {
        "HF_TOKEN": "of-the-variable",
        "HUGGING_FACE_HUB_TOKEN": "of-the-old-variable",
        "HF_TOKEN_PATH": str(write(tmp_path / "path", "of-the-path")),
        "HF_HOME": str(home),
        "XDG_CACHE_HOME": str(cache),
    }
    assert TokenSource(given, environ=environ).get() == "of-the-file"
    for name, expected in [
        ("", "of-the-variable"),
        ("HF_TOKEN", "of-the-old-variable"),
        ("HUGGING_FACE_HUB_TOKEN", "of-the-path"),
        ("HF_TOKEN_PATH", "of-the-home"),
        ("HF_HOME", "of-the-cache"),
    ]:
        environ.pop(name, None)
        assert TokenSource(environ=environ).get() == expected


@pytest.mark.parametrize("name", ["HF_HOME", "HF_TOKEN_PATH"])
def test_a_place_may_be_named_by_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("SCRATCH", str(tmp_path))
    write(tmp_path / "hf" / "token", "secret")
    place = "$SCRATCH/hf" if name == "HF_HOME" else "${SCRATCH}/hf/token"
    assert TokenSource(environ={name: place}).get() == "secret"


def test_anonymous_is_anonymous(tmp_path: Path) -> None:
    given = write(tmp_path / "given", "secret")
    assert TokenSource(given, anonymous=True, environ={"HF_TOKEN": "secret"}).get() is None


@pytest.mark.parametrize("word", ["1", "on", "YES", "True"])
def test_implicit_tokens_can_be_forbidden(tmp_path: Path, word: str) -> None:
    environ = {"HF_TOKEN": "secret", "HF_HUB_DISABLE_IMPLICIT_TOKEN": word}
    assert TokenSource(environ=environ).get() is None
    assert TokenSource(write(tmp_path / "given", "named"), environ=environ).get() == "named"


def test_a_rotated_file_is_used_at_once(tmp_path: Path) -> None:
    path, now_s = tmp_path / "token", [50_000.0]
    source = TokenSource(environ={"HF_TOKEN_PATH": str(path)}, clock=lambda: now_s[0])
    assert source.get() is None
    write(path, "first\n")
    assert source.get() == "first"
    write(tmp_path / "new", "other\n").replace(path)  # as a careful tool would: another file of the same size
    assert source.get() == "first"  # one burst of requests, one look
    now_s[0] += 0.11
    assert source.get() == "other"
    path.unlink()
    now_s[0] += 0.11
    assert source.get() is None
    assert source.get() is None
    write(path, "third\n")
    assert source.get() == "third"


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"two words", b"two\nlines", b"hf_\xff", "hf_é".encode(), b"a\0b", b"a\x1b[2Jb"]
)
def test_garbage_is_no_token(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path / "token", content)
    assert TokenSource(environ={"HF_TOKEN_PATH": str(path)}).get() is None
    fault = "not one word" if content.strip() else "empty"
    with pytest.raises(RemoteUnavailable, match=f"no-token: {path} is {fault}"):
        TokenSource(path, environ={}).get()


def test_a_folder_is_no_token(tmp_path: Path) -> None:
    assert TokenSource(environ={"HF_TOKEN_PATH": str(tmp_path)}).get() is None
    with pytest.raises(RemoteUnavailable, match=f"no-token: {tmp_path} cannot be read: Is a directory"):
        TokenSource(tmp_path, environ={}).get()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_no_token(tmp_path: Path) -> None:
    path = write(tmp_path / "token", "secret")
    path.chmod(0)
    with pytest.raises(RemoteUnavailable, match=f"no-token: {path} cannot be read: Permission denied"):
        TokenSource(path, environ={}).get()


async def test_a_missing_token_file_makes_the_remote_unavailable_until_it_is_there(
    tmp_path: Path, hub: HubServer
) -> None:
    path = tmp_path / "token"
    client = HubClient(hub.endpoint, REPO, TokenSource(path, environ={"HF_TOKEN": hub.token("alice")}))
    try:
        with pytest.raises(RemoteUnavailable, match=f"no-token: {path} cannot be read: No such file") as caught:
            await client.head()
        assert caught.value.reason == "no-token"
        write(path, hub.token("alice"))
        assert await client.head()
    finally:
        await client.close()


@pytest.mark.parametrize("url", ["hf://alice/cache", "hf://buckets/alice/cache"])
async def test_every_call_of_a_remote_says_that_its_token_file_is_missing(tmp_path: Path, url: str) -> None:
    config = RemoteConfig(url=url, token_file=tmp_path / "token", endpoint="http://127.0.0.1:1")
    remote = open_remote(config, tmp_path / "state", {"HF_TOKEN": "secret"})
    try:
        for question in (remote.access(), remote.version("neuronxcc-2"), remote.namespaces()):
            with pytest.raises(RemoteUnavailable, match=r"no-token: .* cannot be read"):
                await question
    finally:
        await remote.close()


def test_space_around_it_does_not_count() -> None:
    assert TokenSource(environ={"HF_TOKEN": " hf_x \n"}).get() == "hf_x"
