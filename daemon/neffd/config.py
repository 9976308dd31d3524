"""The daemon's configuration: environment over file over default, checked as a whole before anything starts.

`load` returns a `Config` or raises one `ConfigError` that names every problem; `render` prints what is in effect and
where each value came from. `config.example.yaml` documents every key.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, PrivateAttr, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

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
from neffd.config_sections import (
    FailuresConfig,
    FetchConfig,
    LocksConfig,
    RunsConfig,
    Section,
    StoreConfig,
    UploadConfig,
)
from neffd.config_sources import Key, Merged, Problem, nearest, read, shown, without_secrets
from neffd.config_values import Address, RemoteKind, RemoteUrl, parse_remote_url
from neffd.errors import ConfigError

NEURON_ENVIRONMENT = "NEURON_CC_FLAGS or NEURON_COMPILE_CACHE_URL"


class RemoteConfig(Section):
    """One place where entries are shared."""

    url: values.RemoteUrlText
    # After `url`, which it is derived from.
    name: values.RemoteName = Field(default="", validate_default=True)
    mode: Literal["read", "read-write"] = "read"
    mirror: bool = False
    poll_s: Annotated[float, values.seconds(86_400)] = 30.0
    allow_public: bool = False
    allow_private_models: bool = False
    endpoint: values.Endpoint = None
    token_file: values.OptionalPath = None
    anonymous: bool = False

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
    def can_write(self) -> bool:
        """Whether the configuration allows to share entries there."""
        return self.mode == "read-write"

    @property
    def _parsed(self) -> RemoteUrl:
        return parse_remote_url(self.url)

    @field_validator("name", mode="before")
    @classmethod
    def _derived_name(cls, name: Any, info: ValidationInfo) -> Any:
        if name is not None and name != "":
            return name
        return parse_remote_url(info.data["url"]).suggested_name if "url" in info.data else "remote"

    @field_validator("mirror")
    @classmethod
    def _mirror_is_written(cls, mirror: bool, info: ValidationInfo) -> bool:
        if mirror and info.data.get("mode") == "read":
            raise ValueError("true only together with mode: read-write")
        return mirror

    @field_validator("endpoint", "token_file", "anonymous")
    @classmethod
    def _hub_only(cls, value: Any, info: ValidationInfo) -> Any:
        if value and str(info.data.get("url", "")).startswith("file:"):
            raise ValueError("only for a remote on the Hub (hf://…)")
        return value

    @field_validator("anonymous")
    @classmethod
    def _without_token(cls, anonymous: bool, info: ValidationInfo) -> bool:
        if anonymous and (info.data.get("token_file") is not None or info.data.get("mode") == "read-write"):
            raise ValueError("true only without token_file, and with mode: read")
        return anonymous


class Config(Section):
    """Everything the daemon can be told. Immutable; `source` tells where a value came from."""

    cache_dirs: values.Paths
    state_dir: values.AbsolutePath
    socket: values.SocketPath
    socket_mode: values.OctalMode = 0o666
    socket_group: values.GroupName = None
    http: values.LoopbackAddress = Address("127.0.0.1", 9817)
    scan_s: Annotated[float, values.seconds(86_400)] = 60.0
    log_level: values.LogLevel = "info"
    upload: UploadConfig = UploadConfig()
    fetch: FetchConfig = FetchConfig()
    runs: RunsConfig = RunsConfig()
    failures: FailuresConfig = FailuresConfig()
    locks: LocksConfig = LocksConfig()
    store: StoreConfig = StoreConfig()
    allow_client_remotes: bool = False
    remotes: tuple[RemoteConfig, ...]

    _sources: dict[str, str] = PrivateAttr(default_factory=dict)

    def source(self, path: str) -> str:
        """Where the value at a dotted key path came from: a file, an environment variable, or `default`."""
        return self._sources.get(path, DEFAULT)

    @field_validator("cache_dirs")
    @classmethod
    def _apart(cls, cache_dirs: tuple[Path, ...]) -> tuple[Path, ...]:
        for number, path in enumerate(cache_dirs):
            for other in cache_dirs[:number]:
                if _overlap(path, other):
                    both = f"{shown('', other)} and {shown('', path)}"
                    raise _contradiction(f"{both}: none may be the same as, or inside, another")
        return cache_dirs

    @field_validator("cache_dirs")
    @classmethod
    def _directories(cls, cache_dirs: tuple[Path, ...]) -> tuple[Path, ...]:
        for path in cache_dirs:
            if os.path.exists(path) and not os.path.isdir(path):  # noqa: PTH110, PTH112 - Path's raise where we may not look
                raise _contradiction(f"{shown('', path)} is no directory")
        return cache_dirs

    @field_validator("state_dir")
    @classmethod
    def _outside_caches(cls, state_dir: Path, info: ValidationInfo) -> Path:
        # The framework's own clean-up would take the journal with it.
        if any(state_dir.is_relative_to(root) for root in info.data.get("cache_dirs", ())):
            raise ValueError("a directory outside of every cache directory")
        return state_dir

    @field_validator("remotes")
    @classmethod
    def _distinct(cls, remotes: tuple[RemoteConfig, ...], info: ValidationInfo) -> tuple[RemoteConfig, ...]:
        names = [remote.name for remote in remotes]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise _contradiction(f"two would be called {twice[0]!r}: give one a name")
        directories = [remote.path for remote in remotes if remote.kind == "directory"]
        if any(_overlap(path, root) for path in directories for root in info.data.get("cache_dirs", ())):
            raise ValueError("directories apart from the cache directories")
        return remotes


def keys() -> tuple[Key, ...]:
    """Every key of the configuration, sections resolved, in the order of the models."""
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
        config = Config.model_validate(merged.tree)
    except ValidationError as error:
        merged.problems.extend(_problem(details, merged) for details in error.errors())
    if merged.problems:
        raise _config_error(merged.problems)
    config._sources.update(_sources_of(merged))
    return config


def render(config: Config) -> str:
    """The effective configuration as YAML that `load` accepts, with the source of every value as a comment."""
    lines: list[str] = []
    section = ""
    for key in keys():
        parent, _, last = key.path.rpartition(".")
        if parent != section:
            section = parent
            if parent:
                lines.append(f"{parent}:")
        holder = getattr(config, parent) if parent else config
        indent = "  " if parent else ""
        value = getattr(holder, last)
        if key.path == "remotes" and value:
            lines.append(f"remotes:  # {config.source('remotes')}")
            lines.extend(_remote_lines(config))
        else:
            lines.append(f"{indent}{last}: {_scalar(last, value)}  # {config.source(key.path)}")
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


def _contradiction(text: str) -> PydanticCustomError:
    """For values of which each is right by itself: `text` is all there is to say."""
    return PydanticCustomError(_CONTRADICTION, "{text}", {"text": text})


def _overlap(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


def _keys_of(model: type[BaseModel], prefix: str) -> Iterator[Key]:
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _keys_of(annotation, f"{prefix}{name}.")
        else:
            is_list = any(get_origin(part) is tuple for part in (annotation, *get_args(annotation)))
            yield Key(prefix + name, is_list)


_CONTRADICTION = "contradiction"
_ALLOWED = {
    "tuple_type": "a list",
    "too_short": "at least one",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "dict_type": "a mapping of keys to values",
}
_MODELS: dict[str | int, type[BaseModel]] = {
    "upload": UploadConfig,
    "fetch": FetchConfig,
    "failures": FailuresConfig,
    "locks": LocksConfig,
    "store": StoreConfig,
    "remotes": RemoteConfig,
}


def _problem(details: Any, merged: Merged) -> Problem:
    """One error of pydantic's in our words."""
    location = details["loc"]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    source = merged.source_of(".".join(str(part) for part in location))
    if details["type"] == "extra_forbidden":
        model = _MODELS.get(location[0], Config) if len(location) > 1 else Config
        return Problem(source, without_secrets(path), f"no such key; {nearest(str(location[-1]), model.model_fields)}")
    if details["type"] == "missing":
        return Problem(source, path, "missing")
    if details["type"] == _CONTRADICTION:
        return Problem(source, path, details["msg"])
    message = details["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    allowed = _ALLOWED.get(details["type"], message)
    return Problem(source, path, f"found {shown(path, details['input'])}; allowed: {allowed}")


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
        for field in RemoteConfig.model_fields:
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
