"""A short directory for sockets, and an environment in which nothing of the machine's own settings shows."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from neff import asking, used
from neff.runs import launcher
from tests.unit.client.hooked import answers, entry, hook, stack  # noqa: F401, fixtures for several modules
from tests.unit.client.recording import PatientWaits


@pytest.fixture
def socket_path() -> Iterator[Path]:
    """Where a scripted daemon may listen; pytest's own directories can be too long for a socket."""
    with tempfile.TemporaryDirectory(prefix="neff") as directory:
        yield Path(directory) / "s"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("NEFFD_SOCKET", "NEFF_DISABLE", "NEURON_CC_FLAGS", "NEURON_COMPILE_CACHE_URL", "CUSTOM_CACHE_REPO"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a test does not give waits of its own, to count them, none of its limits is what it is about."""
    for module in (asking, launcher, used):
        monkeypatch.setattr(module, "Waits", PatientWaits)
