"""The configuration: sources, validation, the example file, and that no input does more than raise ConfigError."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from neffd.config import Config, RemoteConfig, keys, load, render
from neffd.config_defaults import default_socket, default_state_dir, hub_endpoint
from neffd.config_sections import UploadConfig
from neffd.config_values import Address
from neffd.errors import ConfigError

EXAMPLE = Path(__file__).parents[3] / "config.example.yaml"
# Keys whose default depends on the host; given here so that no test depends on the host it runs on.
HOST = {"NEFFD_CACHE_DIRS": "/c", "NEFFD_STATE_DIR": "/s", "NEFFD_SOCKET": "/s/sock"}


def from_text(tmp_path: Path, text: str, environ: Mapping[str, str] = HOST) -> Config:
    file = tmp_path / "neffd.yaml"
    file.write_text(text)
    return load(file, environ)


def problems(tmp_path: Path, text: str, environ: Mapping[str, str] = HOST) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        from_text(tmp_path, text, environ)
    assert caught.value.exit_code == 2
    return [line.strip() for line in caught.value.message.splitlines()[1:]]


def test_environment_over_file_over_default(tmp_path: Path) -> None:
    text = "scan_s: 30\nlog_level: debug\nupload:\n  quiet_s: 3\n  max_files: 7\n"
    config = from_text(tmp_path, text, {**HOST, "NEFFD_SCAN_S": "20", "NEFFD_UPLOAD_QUIET_S": "0.5"})
    assert (config.scan_s, config.log_level, config.upload.quiet_s) == (20, "debug", 0.5)
    assert (config.upload.max_files, config.upload.max_delay_s) == (7, 120)
    assert config.source("scan_s") == "NEFFD_SCAN_S"
    assert config.source("log_level") == str(tmp_path / "neffd.yaml")
    assert config.source("upload.max_files") == str(tmp_path / "neffd.yaml")
    assert config.source("upload.max_delay_s") == "default"


def test_lists_come_from_the_environment_as_yaml() -> None:
    remotes = "[{name: a, url: 'file:///mnt/a'}, {url: hf://org/repo, mode: read-write}]"
    environ = {"NEFFD_CACHE_DIRS": "[/a, '/b c']", "NEFFD_UPLOAD_TRUSTED_UIDS": "[0, 1000]", "NEFFD_REMOTES": remotes}
    config = load(None, {**HOST, **environ})
    assert config.cache_dirs == (Path("/a"), Path("/b c"))
    assert config.upload.trusted_uids == (0, 1000)
    assert [(remote.name, remote.mode) for remote in config.remotes] == [("a", "read"), ("org-repo", "read-write")]
    assert config.source("remotes[1].mode") == "NEFFD_REMOTES"
    assert config.source("remotes[1].poll_s") == "default"


def test_a_variable_can_name_the_file_and_an_argument_wins(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("scan_s: 1")
    (tmp_path / "two.yaml").write_text("scan_s: 2")
    environ = {**HOST, "NEFFD_CONFIG": str(tmp_path / "one.yaml")}
    assert load(None, environ).scan_s == 1
    assert load(tmp_path / "two.yaml", environ).scan_s == 2


def test_a_configuration_cannot_be_changed() -> None:
    config = load(None, HOST)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.scan_s = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("http: null", "http", None),
        ("http: '[::1]:80'", "http", Address("::1", 80)),
        ("http: localhost:0", "http", Address("localhost", 0)),
        ("socket_mode: 0660", "socket_mode", 0o660),
        ("socket_mode: 660", "socket_mode", 0o660),
        ("socket_mode: '0o600'", "socket_mode", 0o600),
        ("socket_group: root", "socket_group", "root"),
        ("log_level: WARNING", "log_level", "warning"),
        ("upload: {max_bytes: 512 MiB}", "upload.max_bytes", 512 * 2**20),
        ("upload: {max_bytes: 1.5gib}", "upload.max_bytes", 3 * 2**29),
        ("upload: {max_bytes: 2 MB}", "upload.max_bytes", 2_000_000),
        ("upload: {max_bytes: 4096}", "upload.max_bytes", 4096),
        ("upload: {trusted_uids: root}", "upload.trusted_uids", (0,)),
        ("upload: {trusted_gids: []}", "upload.trusted_gids", ()),
        ("upload:", "upload", UploadConfig()),
        ("", "scan_s", 60.0),
    ],
)
def test_accepted_values(tmp_path: Path, text: str, path: str, value: Any) -> None:
    config: Any = from_text(tmp_path, text)
    for part in path.split("."):
        config = getattr(config, part)
    assert config == value


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("scan: 5", "scan: no such key; did you mean scan_s?"),
        ("upload: {qiet_s: 5}", "upload.qiet_s: no such key; did you mean quiet_s?"),
        ("remotes: [{url: file:///r, pol_s: 5}]", "remotes[0].pol_s: no such key; did you mean poll_s?"),
        ("scan_s: soon", "scan_s: found 'soon'; allowed: a number of seconds above 0, at most 86400"),
        ("scan_s: 0", "scan_s: found '0'; allowed: a number of seconds above 0, at most 86400"),
        ("scan_s: .inf", "scan_s: found '.inf'; allowed: a number of seconds above 0, at most 86400"),
        ("scan_s: nan", "scan_s: found 'nan'; allowed: a number of seconds above 0, at most 86400"),
        ("scan_s:", "scan_s: found nothing; allowed: a number of seconds above 0, at most 86400"),
        ("fetch: {parallel: 2.5}", "fetch.parallel: found '2.5'; allowed: a whole number from 1 to 256"),
        ("upload: {max_bytes: 0}", "upload.max_bytes: found '0'; allowed: a size up to 1 TiB"),
        ("upload: {max_bytes: 9 parsec}", "upload.max_bytes: found '9 parsec'; allowed: a size"),
        ("upload: {max_delay_s: 5}", "upload.max_delay_s: found '5'; allowed: at least upload.quiet_s, which is 10"),
        ("upload: {quiet_s: 500}", "upload.max_delay_s: found '120.0'; allowed: at least upload.quiet_s"),
        ("upload: {existing: yes}", "upload.existing: found 'yes'; allowed: 'never', 'private-only' or 'always'"),
        ("upload: {trusted_uids: [-1]}", "upload.trusted_uids[0]: found '-1'; allowed: the id or the name of a user"),
        ("upload: {trusted_gids: [99999999999]}", "upload.trusted_gids[0]: found '99999999999'; allowed: "),
        ("upload: 7", "upload: found '7'; allowed: a mapping"),
        ("http: 0.0.0.0:80", "http: found '0.0.0.0:80'; allowed: host:port with a host of this machine alone"),
        ("http: localhost:70000", "http: found 'localhost:70000'; allowed: host:port"),
        ("socket_mode: 0888", "socket_mode: found '0888'; allowed: three octal digits"),
        ("socket_group: no-such-group", "socket_group: found 'no-such-group'; allowed: the name of a group"),
        ("remotes: [{name: a}]", "remotes[0].url: missing"),
        ("remotes: {a: b}", "remotes: found a mapping; allowed: a list"),
        (
            "remotes: [{url: ftp://x/y}]",
            "remotes[0].url: found 'ftp://x/y'; allowed: file:///absolute/path, hf://org/repo",
        ),
        ("remotes: [{url: file://x/y}]", "remotes[0].url: found 'file://x/y'; allowed: file:///absolute/path"),
        ("remotes: [{url: hf://a/b/c}]", "remotes[0].url: found 'hf://a/b/c'; allowed: hf://org/repo"),
        ("remotes: [{url: file:///r, name: ../x}]", "remotes[0].name: found '../x'; allowed: letters, digits"),
        ("remotes: [{url: file:///r, mirror: true}]", "remotes[0].mirror: found 'true'; allowed: true only together"),
        (
            "remotes: [{url: file:///r, endpoint: https://h}]",
            "remotes[0].endpoint: found 'https://h'; allowed: only for",
        ),
        (
            "remotes: [{url: hf://a/b, anonymous: true, token_file: /t}]",
            "remotes[0].anonymous: found 'true'; allowed: ",
        ),
        (
            "remotes: [{url: hf://a/b, anonymous: true, mode: read-write}]",
            "remotes[0].anonymous: found 'true'; allowed: true only without token_file, and with mode: read",
        ),
        ("remotes: [{url: file:///a/r}, {url: file:///b/r}]", "remotes: two would be called 'r': give one a name"),
        ("remotes: [{url: file:///b}, {url: file:///c/r}]", "remotes: 'r', '/c/r', is not apart from '/c'"),
        (
            "remotes: [{url: hf://a/b, name: one}, {url: hf://a/c}, {url: hf://a/b, name: two, mode: read-write}]",
            "remotes: 'one' and 'two' are the same place, 'hf://a/b'",
        ),
        ("remotes: [{url: file:///r, name: x}, {url: 'file:///r/'}]", "remotes: 'x' and 'r' are the same place, "),
        ("7", "found '7'; allowed: a mapping of keys to values"),
        ("? [a]\n: b", "line 1: not YAML: a key must be a word"),
        ("a: [", "not YAML: "),
        ("a: &x [*x]", "not YAML: "),
        ("[" * 600, "nested too deeply"),
    ],
)
def test_refused_values(tmp_path: Path, text: str, complaint: str) -> None:
    (line,) = problems(tmp_path, text)
    prefix = f"{tmp_path / 'neffd.yaml'}: "
    assert line.removeprefix(prefix).removeprefix("default: ").startswith(complaint) or complaint in line
    assert line.startswith((prefix, "default: "))


@pytest.mark.parametrize(
    ("environ", "complaint"),
    [
        (
            {"NEFFD_CACHE_DIRS": "s3://bucket/x"},
            "NEFFD_CACHE_DIRS: cache_dirs[0]: found 's3://bucket/x'; allowed: an abs",
        ),
        (
            {"NEFFD_CACHE_DIRS": "relative"},
            "NEFFD_CACHE_DIRS: cache_dirs[0]: found 'relative'; allowed: an absolute path",
        ),
        ({"NEFFD_CACHE_DIRS": "[]"}, "NEFFD_CACHE_DIRS: cache_dirs: found a list; allowed: at least one"),
        (
            {"NEFFD_CACHE_DIRS": "[/c, /c/d]"},
            "NEFFD_CACHE_DIRS: cache_dirs: '/c' and '/c/d': none may be the same as, or inside, another",
        ),
        (
            {"NEFFD_CACHE_DIRS": "/c:/d"},
            "NEFFD_CACHE_DIRS: cache_dirs: '/c:/d' is one directory, and not there: several are written '[/a, /b]'",
        ),
        ({"NEFFD_CACHE_DIRS": "["}, "NEFFD_CACHE_DIRS: cache_dirs: line 1: not YAML"),
        ({"NEFFD_STATE_DIR": "/c/state"}, "NEFFD_STATE_DIR: state_dir: found '/c/state'; allowed: a directory outside"),
        ({"NEFFD_SOCKET": "/" + "x" * 107}, "NEFFD_SOCKET: socket: found "),
        ({"NEFFD_SOCKET": "/a\0b"}, "NEFFD_SOCKET: socket: found '/a?b'; allowed: an absolute path"),
        ({"NEFFD_STATE_DIR": "/a\ud800"}, "NEFFD_STATE_DIR: state_dir: found '/a?'; allowed: an absolute path"),
        ({"NEFFD_UPLOAD_QUIET": "1"}, "NEFFD_UPLOAD_QUIET: no such key; did you mean NEFFD_UPLOAD_QUIET_S?"),
        ({"NEFFD_CACHE_DIRS": "[/c, /etc/passwd]"}, "NEFFD_CACHE_DIRS: cache_dirs: '/etc/passwd' is no directory"),
        ({"NEFFD_PORTS": "1"}, "NEFFD_PORTS: no such key"),
        ({"HF_ENDPOINT": "hf-mirror.com"}, "HF_ENDPOINT: found 'hf-mirror.com'; allowed: an address like https://"),
        (
            {"HF_ENDPOINT": "hf-mirror.com", "NEFFD_REMOTES": "[]", "NEFFD_ALLOW_CLIENT_REMOTES": "true"},
            "HF_ENDPOINT: found 'hf-mirror.com'; allowed: an address like https://",
        ),
        ({"HF_ENDPOINT": "https://me:SECRET@h"}, "HF_ENDPOINT: found 'https://…h'; allowed: an address like https://"),
        ({"NEFFD_CONFIG": "/nowhere/neffd.yaml"}, "/nowhere/neffd.yaml: cannot be read: No such file or directory"),
        ({"NEFFD_CONFIG": "/"}, "/: cannot be read: Is a directory"),
        ({"NEFFD_CONFIG": "/dev/zero"}, "/dev/zero: too large; allowed: at most"),
    ],
)
def test_refused_environment(environ: dict[str, str], complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, {**HOST, **environ})
    (line,) = caught.value.message.splitlines()[1:]
    assert line.strip().startswith(complaint)


def test_the_environments_hub_is_the_endpoint_of_remotes_that_name_none() -> None:
    remotes = "[{url: hf://a/b}, {url: hf://a/c, endpoint: 'https://own'}, {url: 'file:///r'}]"
    config = load(None, {**HOST, "NEFFD_REMOTES": remotes, "HF_ENDPOINT": "https://hf-mirror.com/"})
    assert [remote.endpoint for remote in config.remotes] == ["https://hf-mirror.com", "https://own", None]
    assert config.source("remotes[1].endpoint") == "NEFFD_REMOTES"
    assert "    endpoint: https://hf-mirror.com  # HF_ENDPOINT" in render(config)
    usual = render(load(None, {**HOST, "NEFFD_REMOTES": remotes}))
    assert "    endpoint: https://huggingface.co  # default" in usual


@pytest.mark.parametrize("remotes", ["[]", "[{url: 'file:///r'}]", "[{url: hf://a/b, endpoint: 'https://own'}]"])
def test_a_bad_hub_does_not_matter_to_whom_it_does_not_concern(remotes: str) -> None:
    assert load(None, {**HOST, "NEFFD_REMOTES": remotes, "HF_ENDPOINT": "hf-mirror.com"})


def test_a_clients_remote_is_at_the_environments_hub() -> None:
    assert hub_endpoint({}) == hub_endpoint({"HF_ENDPOINT": ""}) == "https://huggingface.co"
    assert hub_endpoint({"HF_ENDPOINT": "http://127.0.0.1:1/"}) == "http://127.0.0.1:1"


@pytest.mark.parametrize("service", ["NEFFD", "NEFFD_METRICS", "NEFFD_SERVICE", "NEFFD_NODE_EXPORTER"])
def test_what_kubernetes_says_about_a_service_of_our_name_is_not_ours(service: str) -> None:
    names = ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_9817_TCP", "PORT_9817_TCP_ADDR")
    assert load(None, {**HOST, **{f"{service}_{name}": "tcp://10.0.0.1:9817" for name in names}})


def test_a_port_of_no_service_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="NEFFD_HTTP_PORT: no such key"):
        load(None, {**HOST, "NEFFD_HTTP_PORT": "9817"})


def test_a_socket_path_of_107_bytes_is_the_longest() -> None:
    assert load(None, {**HOST, "NEFFD_SOCKET": "/" + "x" * 106}).socket == Path("/" + "x" * 106)
    with pytest.raises(ConfigError, match=r"at most 107 bytes .this one has 108."):
        load(None, {**HOST, "NEFFD_SOCKET": "/" + "é" * 53 + "x"})


def test_all_problems_are_listed_at_once(tmp_path: Path) -> None:
    text = "scan_s: x\nscan_s: y\nupload: {quiet_s: -1, no: 1}\nremotes: [{url: a}, {mode: b}]\n"
    found = problems(tmp_path, text, {**HOST, "NEFFD_NO": "1", "NEFFD_LOG_LEVEL": "loud"})
    for part in (
        "line 2: the key 'scan_s' appears twice",
        "scan_s: found 'y'",
        "upload.quiet_s: found '-1'",
        "upload.no: no such key",
        "remotes[0].url: found 'a'",
        "remotes[1].url: missing",
        "remotes[1].mode: found 'b'",
        "NEFFD_NO: no such key",
        "NEFFD_LOG_LEVEL: log_level: found 'loud'; allowed: 'debug', 'info', 'warning' or 'error'",
    ):
        assert [line for line in found if part in line], part
    assert len(found) == 9


@pytest.mark.parametrize(
    "text",
    [
        "token: hf_SECRETsecret",
        "scan_s: hf_SECRETsecret",
        "hf_SECRETsecret: 1",
        "a: 1\na: [hf_SECRETsecret",
        "hf_SECRETsecret",
        "a: *hf_SECRETsecret",
        "remotes: [{url: 'https://me:SECRET@host/x'}]",
        "remotes: [{url: 'https://host/x?sig=SECRET'}]",
        "remotes: [{url: hf://a/b, token: SECRET}]",
        "remotes: [{url: hf://a/b, token_file: SECRET}]",
        "remotes: [{url: hf://a/b, endpoint: 'https://SECRET@host'}]",
    ],
)
def test_secrets_are_never_shown(tmp_path: Path, text: str) -> None:
    assert "SECRET" not in "\n".join(problems(tmp_path, text))


def test_remote_urls_are_taken_apart() -> None:
    directory = RemoteConfig(url="file:///mnt/my%20team/Neuron cache!")
    assert (directory.kind, directory.path) == ("directory", Path("/mnt/my team/Neuron cache!"))
    assert directory.name == "Neuron-cache"
    repo = RemoteConfig(
        url="hf://org/repo.x", endpoint="https://hub.example/", token_file=Path("/t"), mode="read-write"
    )
    assert (repo.kind, repo.repo_id, repo.name, repo.endpoint) == (
        "hub-repo",
        "org/repo.x",
        "org-repo.x",
        "https://hub.example",
    )
    assert (repo.can_write, directory.can_write) == (True, False)
    bucket = RemoteConfig(url="hf://buckets/org/b", name="mine")
    assert (bucket.kind, bucket.repo_id, bucket.name) == ("hub-bucket", "org/b", "mine")
    assert RemoteConfig(url="file:///").name == "remote"


def test_default_places() -> None:
    assert default_state_dir({}, root=True) == Path("/var/lib/neffd")
    assert default_state_dir({"STATE_DIRECTORY": "/a/b:/c"}, root=False) == Path("/a/b")
    assert default_socket({"RUNTIME_DIRECTORY": "/r/neffd"}, Path("/s"), root=True) == Path("/r/neffd/neffd.sock")
    assert default_socket({}, Path("/s"), root=True) == Path("/run/neffd/neffd.sock")
    assert default_socket({"XDG_RUNTIME_DIR": "/x"}, Path("/s"), root=False) == Path("/x/neffd/neffd.sock")
    assert default_socket({}, Path("/s"), root=False) == Path("/s/neffd.sock")


@pytest.mark.skipif(os.access("/var/lib/neffd", os.W_OK), reason="this user may write to the system's directory")
def test_default_state_of_a_user() -> None:
    assert default_state_dir({"XDG_STATE_HOME": "/x", "HOME": "/h"}, root=False) == Path("/x/neffd")
    assert default_state_dir({"HOME": "/h"}, root=False) == Path("/h/.local/state/neffd")


def test_the_default_cache_directory_is_the_one_of_the_neuron_tools() -> None:
    environ = {"NEFFD_STATE_DIR": "/s", "NEFFD_SOCKET": "/s/sock"}
    assert load(None, environ).cache_dirs == (Path("/var/tmp/neuron-compile-cache"),)
    assert load(None, {**environ, "NEURON_COMPILE_CACHE_URL": "/elsewhere"}).cache_dirs == (Path("/elsewhere"),)
    assert load(None, {**environ, "NEURON_CC_FLAGS": "-O1 --cache_dir=/flag"}).cache_dirs == (Path("/flag"),)
    with pytest.raises(ConfigError, match=r"NEURON_COMPILE_CACHE_URL: cache_dirs\[0\]: found 's3://bucket/cache'.*S3"):
        load(None, {**environ, "NEURON_COMPILE_CACHE_URL": "s3://bucket/cache"})


REMOTES = """
remotes:
  - {name: team, url: 'file:///mnt/a b: c#d', mode: read-write, poll_s: 0.5}
  - {url: hf://org/repo, endpoint: 'http://127.0.0.1:1', token_file: /t}
"""


def test_rendering_names_sources_and_loads_again(tmp_path: Path) -> None:
    text = f"scan_s: 7\nhttp: null\nsocket_mode: 0600\nupload: {{trusted_uids: [root, 7]}}\n{REMOTES}"
    config = from_text(
        tmp_path, text, {**HOST, "NEFFD_FETCH_PARALLEL": "3", "NEFFD_CACHE_DIRS": "['/null', '/a#b, c']"}
    )
    rendered = render(config)
    assert f"scan_s: 7.0  # {tmp_path / 'neffd.yaml'}" in rendered
    assert "  parallel: 3  # NEFFD_FETCH_PARALLEL" in rendered
    assert "log_level: info  # default" in rendered
    assert "    name: org-repo  # from url" in rendered
    again = from_text(tmp_path, rendered, {})
    assert again == config


def example_text(uncommented: bool) -> str:
    """The example as it stands, or with the keys that are commented out switched on."""
    text = EXAMPLE.read_text()
    return re.sub(r"(?m)^( *)#(?=[a-z]|  +(?:- )?[a-z_]+:)", r"\1", text) if uncommented else text


def test_the_example_is_the_default_configuration(tmp_path: Path) -> None:
    assert from_text(tmp_path, example_text(False)) == load(None, HOST)


def test_the_example_shows_every_key_with_its_default(tmp_path: Path) -> None:
    shown = from_text(tmp_path, example_text(True), {})
    for key in keys():
        assert shown.source(key.path) != "default", f"{key.path} is not in config.example.yaml"
    defaults = dataclasses.asdict(load(None, {**HOST, "NEFFD_CACHE_DIRS": "/var/tmp/neuron-compile-cache"}))
    defaults["state_dir"] = default_state_dir({}, root=True)
    defaults["socket"] = default_socket({}, Path("/unused"), root=True)
    assert {**dataclasses.asdict(shown), "remotes": ()} == {**defaults, "remotes": ()}


def test_without_remotes_there_is_the_public_one(tmp_path: Path) -> None:
    (remote,) = load(None, {**HOST, "HF_HOME": str(tmp_path)}).remotes
    assert remote.url == "hf://aws-neuron/optimum-neuron-cache"
    assert (remote.mode, remote.anonymous, remote.can_write) == ("read", True, False)


def test_the_environments_repos_come_before_the_public_one(tmp_path: Path) -> None:
    (tmp_path / "optimum_neuron_custom_cache").write_text("org/saved")
    environ = {**HOST, "HF_HOME": str(tmp_path)}
    saved = load(None, environ).remotes
    assert [remote.repo_id for remote in saved] == ["org/saved", "aws-neuron/optimum-neuron-cache"]
    assert [remote.can_write for remote in saved] == [True, False]
    both = load(None, {**environ, "CUSTOM_CACHE_REPO": "org/mine"}).remotes
    assert [remote.repo_id for remote in both] == ["org/mine", "org/saved", "aws-neuron/optimum-neuron-cache"]
    assert [remote.can_write for remote in both] == [True, False, False]
    same = load(None, {**environ, "CUSTOM_CACHE_REPO": "aws-neuron/optimum-neuron-cache"}).remotes
    assert [(remote.repo_id, remote.anonymous) for remote in same] == [
        ("org/saved", False),
        ("aws-neuron/optimum-neuron-cache", True),
    ]


def test_default_remotes_show_where_they_came_from(tmp_path: Path) -> None:
    saved = tmp_path / "optimum_neuron_custom_cache"
    saved.write_text("org/saved")
    config = load(None, {**HOST, "HF_HOME": str(tmp_path), "CUSTOM_CACHE_REPO": "org/mine"})
    assert [config.source(f"remotes[{number}].url") for number in range(3)] == [
        "CUSTOM_CACHE_REPO",
        str(saved),
        "default",
    ]
    assert "  - url: hf://org/mine  # CUSTOM_CACHE_REPO" in render(config)


def test_the_file_is_not_the_source_of_remotes_that_it_does_not_name(tmp_path: Path) -> None:
    config = from_text(tmp_path, "scan_s: 5", {**HOST, "HF_HOME": str(tmp_path)})
    assert {config.source("remotes"), config.source("remotes[0].url"), config.source("remotes[0].endpoint")} == {
        "default"
    }


def test_no_remotes_at_all_has_to_be_said(tmp_path: Path) -> None:
    assert from_text(tmp_path, "remotes: []").remotes == ()


def test_the_example_shows_every_key_of_a_remote() -> None:
    first, second = yaml.safe_load(example_text(True))["remotes"]
    defaults = {field.name: field.default for field in dataclasses.fields(RemoteConfig)}
    assert {*first, *second} == set(defaults)
    for field in ("mirror", "poll_s", "allow_public"):
        assert first[field] == defaults[field], field


def test_every_key_of_the_example_has_a_comment() -> None:
    lines = EXAMPLE.read_text().splitlines()
    for number, line in enumerate(lines):
        if re.match(r" *#?(?:  +(?:- )?)?[a-z_]+:", line) and "hf://my-org" not in line and line != "#remotes:":
            before = lines[number - 1].strip()
            assert before.startswith("# "), f"line {number + 1} has no comment above it: {line}"


def test_every_key_has_a_variable_of_its_own() -> None:
    variables = {key.variable: key.path for key in keys()}
    assert len(variables) == len(keys())
    assert variables["NEFFD_UPLOAD_QUIET_S"] == "upload.quiet_s"
    for variable, path in variables.items():
        with pytest.raises(ConfigError) as caught:
            load(None, {**HOST, variable: "{not: valid}"})
        assert f"{variable}: {path}" in caught.value.message


KEYS = st.sampled_from([key.path.rpartition(".")[2] for key in keys()] + ["upload", "fetch", "url", "name", "x"])
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.binary(max_size=4))
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6), max_leaves=12
)
TEXTS = st.one_of(
    TREES.map(lambda tree: yaml.dump(tree).encode()),
    st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.binary(max_size=60),
)


@pytest.mark.timeout(180)  # 200 files: a busy machine takes a while for them
@given(
    content=TEXTS,
    environ=st.dictionaries(
        st.sampled_from([key.variable for key in keys()]) | st.text(max_size=8).map("NEFFD_".__add__),
        st.text(max_size=30) | TREES.map(lambda tree: yaml.dump(tree, default_flow_style=True)),
        max_size=4,
    ),
)
@example(content=b'remotes: [{url: "file:///\\ud800", token_file: "/\\ud800"}]', environ={})
@example(content=b"remotes: [{url: 'hf://[/'}, {url: hf://a/b, endpoint: 'http://['}]", environ={})
@example(content=b'"\\ud800": {"\\0": 1}', environ={"NEFFD_\ud800": "\ud800"})
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_any_input_loads_or_raises_a_config_error(tmp_path: Path, content: bytes, environ: dict[str, str]) -> None:
    file = tmp_path / "neffd.yaml"
    file.write_bytes(content)
    try:
        said = render(load(file, {**HOST, **environ}))
    except ConfigError as error:
        said = str(error)
    assert said.encode(), "it can be printed"
