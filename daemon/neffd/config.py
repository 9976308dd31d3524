"""The daemon's configuration: environment over file over default, checked as a whole before anything starts.

`load` returns a `Config` or raises one `ConfigError` that names every problem; `render` prints what is in effect and
where each value came from. `config.example.yaml` documents every key.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import yaml

from neff.cachedir import DEFAULT_CACHE_DIR, cache_url, local_path
from neffd import config_values as values
from neffd.config_defaults import (
    DEFAULT,
    HUB_VARIABLE,
    default_remotes,
    default_socket,
    default_state_dir,
    hub_endpoint,
)
from neffd.config_keys import Contradiction, Invalid, Section, Wrong, key, list_of, optional
from neffd.config_sections import (
    FailuresConfig,
    FetchConfig,
    LocksConfig,
    RunsConfig,
    StoreConfig,
    UploadConfig,
)
from neffd.config_sources import Key, Merged, Problem, read, shown, without_secrets
from neffd.config_values import Address, RemoteKind, RemoteUrl, one_of, parse_remote_url, seconds, true_or_false
from neffd.errors import ConfigError

_T = TypeVar("_T")
NEURON_ENVIRONMENT = "NEURON_CC_FLAGS or NEURON_COMPILE_CACHE_URL"
# As PATH is written, or a list without brackets.
_SEVERAL = re.compile(r"[:,]\s*/")


def _or_derived(name: str, before: Mapping[str, Any]) -> str:
    return name or (parse_remote_url(before["url"]).suggested_name if "url" in before else "remote")


def _is_written(mirror: bool, before: Mapping[str, Any]) -> bool:
    if mirror and before.get("mode") == "read":
        raise ValueError("true only together with mode: read-write")
    return mirror


def _hub_only(value: _T, before: Mapping[str, Any]) -> _T:
    if value and str(before.get("url", "")).startswith("file:"):
        raise ValueError("only for a remote on the Hub (hf://…)")
    return value


def _without_token(anonymous: bool, before: Mapping[str, Any]) -> bool:
    if anonymous and (before.get("token_file") is not None or before.get("mode") == "read-write"):
        raise ValueError("true only without token_file, and with mode: read")
    return _hub_only(anonymous, before)


@dataclass(frozen=True, init=False)
class RemoteConfig(Section):
    """One place where entries are shared."""

    url: str = key(values.remote_url)
    # After `url`, which it is derived from.
    name: str = key(values.remote_name, "", _or_derived)
    mode: str = key(one_of("read", "read-write"), "read")
    mirror: bool = key(true_or_false, False, _is_written)
    poll_s: float = key(seconds(86_400), 30.0)
    allow_public: bool = key(true_or_false, False)
    allow_private_models: bool = key(true_or_false, False)
    endpoint: str | None = key(optional(values.endpoint), None, _hub_only)
    token_file: Path | None = key(optional(values.absolute_path), None, _hub_only)
    anonymous: bool = key(true_or_false, False, _without_token)

    @property
    def kind(self) -> RemoteKind:
        return self._parsed.kind

    @property
    def path(self) -> Path:
        """The directory of a `directory` remote."""
        if self._parsed.path is None:
            raise ValueError(f"remote {self.name} is no directory")
        return self._parsed.path

    @property
    def repo_id(self) -> str:
        """`org/name` of a remote on the Hub, empty for a directory."""
        return self._parsed.repo_id

    @property
    def place(self) -> tuple[object, ...]:
        """What two remotes that are the same have in common."""
        return (self.kind, self._parsed.path, self.repo_id, self.endpoint)

    @property
    def can_write(self) -> bool:
        """Whether the configuration allows to share entries there."""
        return self.mode == "read-write"

    @property
    def _parsed(self) -> RemoteUrl:
        return parse_remote_url(self.url)


def _apart(cache_dirs: tuple[Path, ...], before: Mapping[str, Any]) -> tuple[Path, ...]:
    for number, path in enumerate(cache_dirs):
        for other in cache_dirs[:number]:
            if _overlap(path, other):
                both = f"{shown('', other)} and {shown('', path)}"
                raise Contradiction(f"{both}: none may be the same as, or inside, another")
        is_there = os.path.exists(path)  # noqa: PTH110 - Path's raise where we may not look
        if not is_there and _SEVERAL.search(str(path)):
            raise Contradiction(f"{shown('', path)} is one directory, and not there: several are written '[/a, /b]'")
        if is_there and not os.path.isdir(path):  # noqa: PTH112
            raise Contradiction(f"{shown('', path)} is no directory")
    return cache_dirs


def _outside_caches(state_dir: Path, before: Mapping[str, Any]) -> Path:
    # The framework's own clean-up would take the journal with it.
    if any(state_dir.is_relative_to(root) for root in before.get("cache_dirs", ())):
        raise ValueError("a directory outside of every cache directory")
    return state_dir


def _distinct(remotes: tuple[RemoteConfig, ...], before: Mapping[str, Any]) -> tuple[RemoteConfig, ...]:
    names = [remote.name for remote in remotes]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise Contradiction(f"two would be called {twice[0]!r}: give one a name")
    first: dict[object, RemoteConfig] = {}
    for remote in remotes:
        same = first.setdefault(remote.place, remote)
        if same is not remote:
            raise Contradiction(f"{same.name!r} and {remote.name!r} are the same place, {shown('', remote.url)}")
        for root in before.get("cache_dirs", ()) if remote.kind == "directory" else ():
            if _overlap(remote.path, root):
                raise Contradiction(f"{remote.name!r}, {shown('', remote.path)}, is not apart from {shown('', root)}")
    return remotes


@dataclass(frozen=True, init=False)
class Config(Section):
    """Everything the daemon can be told. Immutable; `source` tells where a value came from."""

    cache_dirs: tuple[Path, ...] = key(list_of(values.absolute_path, at_least=1, or_one=True), then=_apart)
    state_dir: Path = key(values.absolute_path, then=_outside_caches)
    socket: Path = key(values.socket_path)
    socket_mode: int = key(values.octal_mode, 0o666)
    socket_group: str | None = key(optional(values.group_name), None)
    http: Address | None = key(values.loopback_address, Address("127.0.0.1", 9817))
    scan_s: float = key(seconds(86_400), 60.0)
    log_level: str = key(values.log_level, "info")
    upload: UploadConfig = key(UploadConfig, UploadConfig())
    fetch: FetchConfig = key(FetchConfig, FetchConfig())
    runs: RunsConfig = key(RunsConfig, RunsConfig())
    failures: FailuresConfig = key(FailuresConfig, FailuresConfig())
    locks: LocksConfig = key(LocksConfig, LocksConfig())
    store: StoreConfig = key(StoreConfig, StoreConfig())
    allow_client_remotes: bool = key(true_or_false, False)
    remotes: tuple[RemoteConfig, ...] = key(list_of(RemoteConfig), then=_distinct)

    _sources: ClassVar[Mapping[str, str]] = MappingProxyType({})

    def source(self, path: str) -> str:
        """Where the value at a dotted key path came from: a file, an environment variable, or `default`."""
        return self._sources.get(path, DEFAULT)


def keys() -> tuple[Key, ...]:
    """Every key of the configuration, sections resolved, in the order of their declaration."""
    return tuple(_keys_of(Config, ""))


def load(file: str | os.PathLike[str] | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """Read the configuration; see `config.example.yaml` for its keys.

    Args:
        file: the YAML file; without it the one that NEFFD_CONFIG names, if any.
        environ: the environment, `os.environ` if not given.

    Raises:
        ConfigError: with every problem found: file or variable, key, what was found, what is allowed.
    """
    environ = os.environ if environ is None else environ
    merged = read(file, environ, keys())
    _fill_in(merged, environ)
    try:
        config = Config(**merged.tree)
    except Invalid as error:
        merged.problems.extend(_problem(wrong, merged) for wrong in error.wrong)
    if merged.problems:
        raise _config_error(merged.problems)
    object.__setattr__(config, "_sources", _sources_of(merged))
    return config


def render(config: Config) -> str:
    """The effective configuration as YAML that `load` accepts, with the source of every value as a comment."""
    lines: list[str] = []
    within = ""
    for path in (each.path for each in keys()):
        parent, _, last = path.rpartition(".")
        if parent != within:
            within = parent
            if parent:
                lines.append(f"{parent}:")
        holder = getattr(config, parent) if parent else config
        indent = "  " if parent else ""
        value = getattr(holder, last)
        if path == "remotes" and value:
            lines.append(f"remotes:  # {config.source('remotes')}")
            lines.extend(_remote_lines(config))
        else:
            lines.append(f"{indent}{last}: {_scalar(last, value)}  # {config.source(path)}")
    return "\n".join(lines) + "\n"


def _fill_in(merged: Merged, environ: Mapping[str, str]) -> None:
    """Add the defaults that depend on the host."""
    tree, root = merged.tree, os.geteuid() == 0
    if "cache_dirs" not in tree:
        url = cache_url(environ)
        tree["cache_dirs"] = [local_path(url) or url]
        if url != DEFAULT_CACHE_DIR:
            merged.sources["cache_dirs"] = NEURON_ENVIRONMENT
    if "state_dir" not in tree:
        tree["state_dir"] = default_state_dir(environ, root=root)
    if "remotes" not in tree:
        remotes = default_remotes(environ)
        tree["remotes"] = [remote for _, remote in remotes]
        merged.sources.update({f"remotes.{number}": source for number, (source, _) in enumerate(remotes)})
    if "socket" not in tree:
        tree["socket"] = default_socket(environ, Path(str(tree["state_dir"])), root=root)
    _fill_in_endpoints(merged, environ)


def _fill_in_endpoints(merged: Merged, environ: Mapping[str, str]) -> None:
    """Give the remotes on the Hub that name no endpoint the environment's, or the usual one."""
    remotes = merged.tree["remotes"] if isinstance(merged.tree["remotes"], list) else []
    bare = [number for number, remote in enumerate(remotes) if _lacks_endpoint(remote)]
    if not bare and merged.tree.get("allow_client_remotes", "false") == "false":
        return
    try:
        endpoint = hub_endpoint(environ)
    except ValueError as error:
        found = shown("", environ[HUB_VARIABLE])
        merged.problems.append(Problem(HUB_VARIABLE, "", f"found {found}; allowed: {error}"))
        return
    for number in bare:
        remotes[number] = {**remotes[number], "endpoint": endpoint}
        merged.sources[f"remotes.{number}.endpoint"] = HUB_VARIABLE if environ.get(HUB_VARIABLE) else DEFAULT


def _lacks_endpoint(remote: Any) -> bool:
    on_hub = isinstance(remote, dict) and str(remote.get("url")).startswith("hf://")
    return on_hub and remote.get("endpoint") is None


def _overlap(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


def _keys_of(within: type[Section], prefix: str) -> Iterator[Key]:
    for field in fields(within):
        inner = field.default
        if isinstance(inner, Section):
            yield from _keys_of(type(inner), f"{prefix}{field.name}.")
        else:
            yield Key(prefix + field.name, is_list=str(field.type).startswith("tuple["))


def _problem(wrong: Wrong, merged: Merged) -> Problem:
    """What is wrong with a value, and where it came from."""
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in wrong.path).lstrip(".")
    source = merged.source_of(".".join(map(str, wrong.path)))
    text = f"found {shown(path, wrong.found)}; allowed: {wrong.text}" if wrong.is_value else wrong.text
    return Problem(source, without_secrets(path), text)


def _config_error(problems: list[Problem]) -> ConfigError:
    count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
    listed = "".join(f"\n  {problem}" for problem in problems)
    return ConfigError(
        "bad-config", f"the configuration has {count}:{listed}", "config.example.yaml documents every key"
    )


def _sources_of(merged: Merged) -> dict[str, str]:
    """The source of every key that was given, keys of remotes included."""
    sources = {path: source for path, source in merged.sources.items() if path}
    for number, remote in enumerate(merged.tree["remotes"]):
        given = {field: merged.source_of(f"remotes.{number}.{field}") for field in remote}
        sources.update({f"remotes[{number}].{field}": source for field, source in given.items()})
        if not remote.get("name"):
            sources[f"remotes[{number}].name"] = "from url"
    return sources


def _remote_lines(config: Config) -> Iterator[str]:
    for number, remote in enumerate(config.remotes):
        for field in (each.name for each in fields(RemoteConfig)):
            bullet = "  - " if field == "url" else "    "
            source = config.source(f"remotes[{number}].{field}")
            yield f"{bullet}{field}: {_scalar(field, getattr(remote, field))}  # {source}"


def _scalar(name: str, value: Any) -> str:
    """One value as YAML on one line."""
    if name == "socket_mode":
        return f"{value:04o}"
    if isinstance(value, tuple):
        value = [str(item) if isinstance(item, Path) else item for item in value]
    elif isinstance(value, (Path, Address)):
        value = str(value)
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")
