"""Where the Hub token comes from. Looked for again by every use, so that a rotated file takes effect at once."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from neffd.remotes.base import RemoteUnavailable

_OFF = {"1", "ON", "YES", "TRUE"}
# The requests of one burst share a look at the file: it is taken on the event loop.
_LOOK_EVERY_S = 0.1


class TokenSource:
    """The token of one remote.

    The order is huggingface_hub's: HF_TOKEN, then the file that a login left (HF_TOKEN_PATH, else `$HF_HOME/token`).

    Args:
        token_file: used instead of all that.
        anonymous: never send a token.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        token_file: Path | None = None,
        *,
        anonymous: bool = False,
        environ: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._token_file = token_file
        self._anonymous = anonymous
        self._environ = environ
        self._read = _CachedFile(clock)

    def get(self) -> str | None:
        """The token as it is now, or None.

        Raises:
            RemoteUnavailable: `no-token`, where `token_file` has none. Without one a private repo would look absent.
        """
        if self._anonymous:
            return None
        if self._token_file is not None:
            return self._from_named_file(self._token_file)
        if self._environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").upper() in _OFF:
            return None
        given = self._environ.get("HF_TOKEN") or self._environ.get("HUGGING_FACE_HUB_TOKEN")
        if given:
            return _clean(given)
        with contextlib.suppress(OSError, RuntimeError):  # the latter of a user without a home directory
            return _clean(self._read(self._login_file()))
        return None

    def _from_named_file(self, path: Path) -> str:
        try:
            text = self._read(path)
        except OSError as error:
            raise RemoteUnavailable("no-token", f"{path} cannot be read: {error.strerror}") from None
        token = _clean(text)
        if token is None:
            raise RemoteUnavailable("no-token", f"{path} is {'not one word' if text.strip() else 'empty'}")
        return token

    def _login_file(self) -> Path:
        if path := self._environ.get("HF_TOKEN_PATH"):
            return _expanded(path)
        cache = self._environ.get("XDG_CACHE_HOME") or "~/.cache"
        home = self._environ.get("HF_HOME") or f"{cache}/huggingface"
        return _expanded(home) / "token"


class _CachedFile:
    """Reads a token file again only when it was changed: it is asked for with every request."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._look_at = clock()
        self._seen: tuple[Path, int, int, int] | None = None
        self._text = ""

    def __call__(self, path: Path) -> str:
        is_known = self._seen is not None and self._seen[0] == path
        if not is_known or self._clock() >= self._look_at:
            self._look(path)
        return self._text

    def _look(self, path: Path) -> None:
        facts = path.stat()
        seen = (path, facts.st_ino, facts.st_mtime_ns, facts.st_size)
        if seen != self._seen:
            self._text = path.read_text(errors="replace")
            self._seen = seen
        self._look_at = self._clock() + _LOOK_EVERY_S


def _expanded(path: str) -> Path:
    """As huggingface_hub reads it: `HF_HOME=$SCRATCH/hf`, from a file of variables that no shell expanded."""
    return Path(os.path.expandvars(Path(path).expanduser()))


def _clean(text: str) -> str | None:
    """A token is one printable word: a header must not be broken by a stray newline."""
    token = text.strip()
    return token if token and token.isascii() and token.isprintable() and " " not in token else None
