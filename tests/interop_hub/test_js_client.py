"""The official JavaScript client: upload, list, download, conflicts, privacy, buckets; with Xet and with plain LFS."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.hub import HubProcess

pytestmark = pytest.mark.interop

_SOURCES = Path(__file__).with_name("js")
_INSTALL_S = 50
_RUN_S = 50
MODES = ("xet", "lfs")


def _unavailable(reason: str) -> NoReturn:
    """Skip, but not where nobody would see it."""
    if os.environ.get("CI") and shutil.which("node"):
        pytest.fail(f"the JavaScript client cannot be checked: {reason}")
    pytest.skip(f"the JavaScript client is not checked here: {reason}")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the script and the installed client."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            _unavailable(f"{tool} is not installed")
    folder = tmp_path_factory.mktemp("js")
    for source in _SOURCES.iterdir():
        if source.is_file():
            shutil.copy(source, folder)
    command = ["npm", "install", "--no-audit", "--no-fund", "--omit=optional", "--prefer-offline"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_INSTALL_S)
    except subprocess.TimeoutExpired:
        _unavailable(f"npm install took more than {_INSTALL_S} s")
    if done.returncode:
        _unavailable(f"npm install failed: {done.stderr.strip()[-500:]}")
    return folder


@pytest.fixture(scope="module", params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def seen(mode: str, package: Path, running_hub: HubProcess) -> dict[str, Any]:
    """What the script saw, with the requests that it took."""
    environment = {
        "PATH": os.environ["PATH"],
        "HUB_URL": running_hub.endpoint,
        "TOKEN": running_hub.token("alice"),
        "OTHER_TOKEN": running_hub.token("bob"),
        "MODE": mode,
    }
    running_hub.reset_counters()
    done = subprocess.run(
        ["node", "check.mjs"], cwd=package, env=environment, capture_output=True, text=True, timeout=_RUN_S
    )
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout), "counters": running_hub.counters()}


def test_account_and_creation(seen: dict[str, Any], mode: str, running_hub: HubProcess) -> None:
    assert seen["user"] == "alice"
    assert seen["created"]["repoUrl"] == f"{running_hub.endpoint}/alice/js-{mode}"
    assert seen["createdAgain"]["status"] == 409


def test_uploads_are_listed(seen: dict[str, Any], mode: str) -> None:
    listed = seen["listed"]
    assert set(listed) == {".gitattributes", "folder", *seen["expected"]}
    for path in ("folder/noise.bin", "folder/repetitive.bin"):
        assert listed[path]["lfs"]["oid"] == seen["expected"][path]
        assert ("xetHash" in listed[path]) is (mode == "xet")
    assert "lfs" not in listed["folder/small.txt"]
    assert seen["pathsInfo"] == ["folder", "folder/noise.bin"]


def test_uploads_took_the_intended_way(seen: dict[str, Any], mode: str) -> None:
    requests = seen["counters"]["requests"]
    assert ("PUT /lfs/{oid}/{size}" in requests) is (mode == "lfs")
    assert requests["POST /v1/xorbs/default/{hash}"] >= 1
    assert seen["counters"]["unrouted"] == {}


def test_downloads_hold_the_uploaded_bytes(seen: dict[str, Any]) -> None:
    assert seen["downloaded"] == seen["expected"]
    assert seen["downloadedPlain"] == seen["expected"]


def test_absent_files(seen: dict[str, Any]) -> None:
    assert seen["exists"] == [True, False]
    assert seen["missing"] is None


def test_stale_parent_is_refused(seen: dict[str, Any], mode: str, running_hub: HubProcess) -> None:
    assert seen["stale"]["status"] == 412
    assert "The branch was updated since you opened this page" in seen["stale"]["message"]
    # The refused commit is not in the history, the others are.
    assert len(seen["titles"]) == 4
    assert seen["titles"][-2:] == ["from JavaScript", "initial commit"]
    assert set(running_hub.read_files(f"alice/js-{mode}")) == {".gitattributes", *seen["expected"]}


def test_private_repo_is_hidden(seen: dict[str, Any]) -> None:
    assert (seen["hiddenFromOther"]["status"], seen["hiddenFromAnonymous"]["status"]) == (404, 401)
    assert seen["foreignWrite"]["status"] == 403
    assert seen["hiddenExists"] is False


def test_bucket(seen: dict[str, Any]) -> None:
    assert seen["bucketListed"] == sorted(seen["expected"])
    assert seen["bucketDownloaded"] == seen["expected"]
    assert seen["bucketLeft"] == ["folder/noise.bin", "folder/repetitive.bin"]
