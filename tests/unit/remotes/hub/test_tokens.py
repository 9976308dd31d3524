"""Whose token is used, and that a changed one is used at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from neffd.remotes.hub.tokens import TokenSource


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


def test_anonymous_is_anonymous(tmp_path: Path) -> None:
    given = write(tmp_path / "given", "secret")
    assert TokenSource(given, anonymous=True, environ={"HF_TOKEN": "secret"}).get() is None


@pytest.mark.parametrize("word", ["1", "on", "YES", "True"])
def test_implicit_tokens_can_be_forbidden(tmp_path: Path, word: str) -> None:
    environ = {"HF_TOKEN": "secret", "HF_HUB_DISABLE_IMPLICIT_TOKEN": word}
    assert TokenSource(environ=environ).get() is None
    assert TokenSource(write(tmp_path / "given", "named"), environ=environ).get() == "named"


def test_a_rotated_file_is_used_at_once(tmp_path: Path) -> None:
    path = tmp_path / "token"
    source = TokenSource(path, environ={})
    assert source.get() is None
    write(path, "first\n")
    assert source.get() == "first"
    write(tmp_path / "new", "other\n").replace(path)  # as a careful tool would: another file of the same size
    assert source.get() == "other"
    path.unlink()
    assert source.get() is None
    write(path, "third\n")
    assert source.get() == "third"


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"two words", b"two\nlines", b"hf_\xff", "hf_é".encode(), b"a\0b", b"a\x1b[2Jb"]
)
def test_garbage_is_no_token(tmp_path: Path, content: bytes) -> None:
    assert TokenSource(write(tmp_path / "token", content), environ={}).get() is None


def test_a_folder_is_no_token(tmp_path: Path) -> None:
    assert TokenSource(tmp_path, environ={}).get() is None


def test_space_around_it_does_not_count() -> None:
    assert TokenSource(environ={"HF_TOKEN": " hf_x \n"}).get() == "hf_x"
