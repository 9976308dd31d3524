"""One Hub and two Python clients for all tests of this folder; every test works in repos of its own."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub import HubProcess
from tests.interop_hub.client import PythonClient


@pytest.fixture(scope="session")
def python_client_installed() -> None:
    for module in ("huggingface_hub", "hf_xet"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"the official Python client needs {module}, which is not installed")


@pytest.fixture(scope="session")
def running_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    with HubProcess(tmp_path_factory.mktemp("hub")) as hub:
        yield hub
    assert hub.log_path.read_text() == "", "the Hub itself failed"


@pytest.fixture
def hub(running_hub: HubProcess) -> Iterator[HubProcess]:
    """The Hub, with its switches as they were and its counters at zero."""
    settings = running_hub.settings()
    running_hub.reset_counters()
    yield running_hub
    running_hub.clear_faults()
    running_hub.set(**settings)
    running_hub.reset_limits()


@pytest.fixture(scope="session")
def client(
    running_hub: HubProcess, tmp_path_factory: pytest.TempPathFactory, python_client_installed: None
) -> Iterator[PythonClient]:
    """The Python client with hf_xet, as alice with a write token."""
    home = tmp_path_factory.mktemp("client")
    with PythonClient(running_hub.endpoint, running_hub.token("alice"), home, HF_HUB_ETAG_TIMEOUT="2") as client:
        yield client


@pytest.fixture(scope="session")
def lfs_client(
    running_hub: HubProcess, tmp_path_factory: pytest.TempPathFactory, python_client_installed: None
) -> Iterator[PythonClient]:
    """The Python client without Xet."""
    home = tmp_path_factory.mktemp("lfs-client")
    options = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "1"}
    with PythonClient(running_hub.endpoint, running_hub.token("alice"), home, **options) as client:
        yield client


_serial = itertools.count()


@pytest.fixture
def repo(hub: HubProcess, client: PythonClient) -> str:
    """A fresh public model repo of alice, made by the client."""
    repo_id = f"alice/repo-{next(_serial)}"
    client.call("create_repo", repo_id=repo_id)
    hub.reset_counters()
    return repo_id


@pytest.fixture
def bucket(hub: HubProcess, client: PythonClient) -> str:
    """A fresh public bucket of alice, made by the client."""
    bucket_id = f"alice/bucket-{next(_serial)}"
    client.call("create_bucket", bucket_id=bucket_id)
    hub.reset_counters()
    return bucket_id


def write_tree(root: Path, files: dict[str, bytes]) -> Path:
    """Write files below a folder and return the folder."""
    for path, data in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return root


def read_tree(root: Path) -> dict[str, bytes]:
    """Return all files below a folder."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
