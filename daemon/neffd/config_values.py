"""The kinds of value a configuration holds: text that a person wrote becomes a checked value.

A parser raises ValueError whose text says what is allowed; what was found is shown by whoever reports the problem.
"""

from __future__ import annotations

import grp
import ipaddress
import os
import pwd
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from neff.protocol import MAX_SOCKET_PATH_BYTES

RemoteKind = Literal["directory", "hub-repo", "hub-bucket"]

MAX_NAME_CHARS = 63
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_NAME_CHARS - 1}}}")
_HUB_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")
_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,6})?)\s*([A-Za-z]*)", re.ASCII)
_SIZE_UNITS = {
    "": 1,
    "b": 1,
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)},
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)},
}
_MAX_SIZE_BYTES = 2**40
_MAX_ID = 2**32 - 2
_TRUE = ("true", "yes", "on", "y", "t", "1")
_FALSE = ("false", "no", "off", "n", "f", "0")
HUB = "https://huggingface.co"
_ENDPOINT = "an address like https://huggingface.co, without user, password or query"


@dataclass(frozen=True)
class Address:
    """A TCP address on the loopback interface; port 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class RemoteUrl:
    """A remote's URL in parts: `path` where it is a directory, `repo_id` (`org/name`) where it is on the Hub."""

    kind: RemoteKind
    path: Path | None = None
    repo_id: str = ""

    @property
    def suggested_name(self) -> str:
        """A name for the remote when the configuration gives none."""
        source = self.path.name if self.path is not None else self.repo_id
        return re.sub(r"[^A-Za-z0-9._-]+", "-", source).strip("-._")[:MAX_NAME_CHARS] or "remote"


def parse_remote_url(url: str) -> RemoteUrl:
    """Split the URL of a remote; raises ValueError with the list of what is allowed."""
    if url.startswith("file://"):
        path = unquote(url.removeprefix("file://"))
        if not path.startswith("/"):
            raise ValueError("file:///absolute/path, with three slashes")
        return RemoteUrl("directory", absolute_path(path))
    if url.startswith("hf://"):
        kind: RemoteKind = "hub-bucket" if url.startswith("hf://buckets/") else "hub-repo"
        repo_id = url.removeprefix("hf://buckets/" if kind == "hub-bucket" else "hf://")
        if [bool(_HUB_NAME.fullmatch(part)) for part in repo_id.split("/")] != [True, True]:
            raise ValueError("hf://org/repo, or hf://buckets/org/name")
        return RemoteUrl(kind, repo_id=repo_id)
    raise ValueError("file:///absolute/path, hf://org/repo or hf://buckets/org/name")


def absolute_path(value: Any) -> Path:
    """An absolute path; `..` and doubled slashes are resolved by name alone."""
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else ""
    if text.startswith("s3://"):
        raise ValueError("an absolute path; a cache in S3 is shared by the Neuron tools themselves, without neffd")
    if not text.startswith("/") or "\0" in text:
        raise ValueError("an absolute path")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        encoding = sys.getfilesystemencoding()
        mend = "" if encoding == "utf-8" else "; LC_ALL=C.UTF-8 has all"
        raise ValueError(f"an absolute path in the characters of the locale ({encoding}){mend}") from None
    return Path("/" + os.path.normpath(text).lstrip("/"))


def socket_path(value: Any) -> Path:
    """A path that a Unix socket can have."""
    path = absolute_path(value)
    length_bytes = len(os.fsencode(path))
    if length_bytes > MAX_SOCKET_PATH_BYTES:
        raise ValueError(f"an absolute path of at most {MAX_SOCKET_PATH_BYTES} bytes (this one has {length_bytes})")
    return path


def loopback_address(value: Any) -> Address | None:
    """Host and port on this machine alone, or null."""
    if value is None or isinstance(value, Address):
        return value
    host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not re.fullmatch(r"\d{1,5}", port, re.ASCII) or int(port) > 65535 or not is_loopback(host):
        raise ValueError("host:port with a host of this machine alone, such as 127.0.0.1:9817 or [::1]:9817, or null")
    return Address(host, int(port))


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address without brackets, can only mean this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def octal_mode(value: Any) -> int:
    """Permission bits."""
    text = f"{value:o}" if isinstance(value, int) else str(value)
    if not re.fullmatch(r"(0o)?0?[0-7]{3}", text):
        raise ValueError("three octal digits, such as 0666 or 0660")
    return int(text.removeprefix("0o"), 8)


def size_bytes(value: Any) -> int:
    """Bytes, with or without a unit."""
    match = _SIZE.fullmatch(str(value).strip())
    unit = _SIZE_UNITS.get(match[2].lower(), 0) if match else 0
    size_bytes = int(Decimal(match[1]) * unit) if match else 0
    if not 0 < size_bytes <= _MAX_SIZE_BYTES:
        raise ValueError("a size up to 1 TiB, such as 1 GiB, 512 MiB or 500000000")
    return size_bytes


def count(value: Any) -> int:
    """How many of something, where null stands for any number."""
    if not re.fullmatch(r"[1-9]\d{0,8}", str(value), re.ASCII):
        raise ValueError("a whole number from 1 to 999999999, or null")
    return int(value)


def free_bytes(value: Any) -> int:
    """A size, which may be nothing."""
    return 0 if str(value).strip() == "0" else size_bytes(value)


def percentage(value: Any) -> int:
    """A whole percentage from 1 to 100."""
    if not re.fullmatch(r"\d{1,3}", str(value), re.ASCII) or not 0 < int(value) <= 100:
        raise ValueError("a whole percentage from 1 to 100")
    return int(value)


def _account_id(value: Any, kind: str, look_up: Callable[[str], int]) -> int:
    text = str(value)
    if re.fullmatch(r"\d{1,10}", text, re.ASCII):
        if int(text) > _MAX_ID:
            raise ValueError(f"a {kind} id up to {_MAX_ID}")
        return int(text)
    try:
        return look_up(text)
    except (KeyError, ValueError):
        raise ValueError(f"the id or the name of a {kind} of this machine") from None


def uid(value: Any) -> int:
    """A user, by id or name."""
    return _account_id(value, "user", lambda name: pwd.getpwnam(name).pw_uid)


def gid(value: Any) -> int:
    """A group, by id or name."""
    return _account_id(value, "group", lambda name: grp.getgrnam(name).gr_gid)


def group_name(value: Any) -> str:
    """The name of a group."""
    try:
        grp.getgrnam(value)
    except (KeyError, ValueError, TypeError):
        raise ValueError("the name of a group of this machine, or null") from None
    return str(value)


def remote_name(value: Any) -> str:
    """What a remote is called; empty where nothing is said."""
    if value is None or value == "":
        return ""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(f"letters, digits, '.', '_' and '-', at most {MAX_NAME_CHARS}, a letter or digit first")
    return value


def remote_url(value: Any) -> str:
    """The URL of a remote, as it was written."""
    parse_remote_url(str(value))
    return str(value)


def endpoint(value: Any) -> str:
    """Base URL of a Hub, without a trailing slash."""
    parts = urlsplit(str(value))
    plain = "@" not in parts.netloc and not parts.query and not parts.fragment
    if parts.scheme not in ("http", "https") or not parts.hostname or not plain or not str(value).isprintable():
        raise ValueError(_ENDPOINT)
    return str(value).rstrip("/")


def true_or_false(value: Any) -> bool:
    """Yes or no, in YAML's words."""
    text = str(value).lower()
    if text not in _TRUE + _FALSE:
        raise ValueError("true or false")
    return text in _TRUE


def log_level(value: Any) -> str:
    """How much is logged."""
    return one_of("debug", "info", "warning", "error")(str(value).lower())


def one_of(*words: str) -> Callable[[Any], str]:
    """One of several words."""

    def check(value: Any) -> str:
        if value not in words:
            *others, last = map(repr, words)
            raise ValueError(f"{', '.join(others)} or {last}")
        return str(value)

    return check


def seconds(at_most: float) -> Callable[[Any], float]:
    """A duration above nothing, at most `at_most` seconds."""

    def check(value: Any) -> float:
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = 0
        if not 0 < number <= at_most:
            raise ValueError(f"a number of seconds above 0, at most {at_most:g}")
        return number

    return check


def whole_number(at_most: int) -> Callable[[Any], int]:
    """A count from 1 to `at_most`."""

    def check(value: Any) -> int:
        text = str(value)
        if not re.fullmatch(r"\d{1,18}", text, re.ASCII) or not 0 < int(text) <= at_most:
            raise ValueError(f"a whole number from 1 to {at_most}")
        return int(text)

    return check
