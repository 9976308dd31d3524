"""The worker process: real ones, against a Hub in the test's event loop."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import warnings
from collections.abc import AsyncIterator, Awaitable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from neffd.remotes.base import RemoteUnavailable
from neffd.remotes.hub.worker import presentable
from neffd.remotes.hub.workers import HubCallFailed, HubWorker
from tests.harness.daemon import python_path
from tests.harness.processes import command_line
from tests.hub import HubServer
from tests.unit.remotes.hub.conftest import REPO
from tests.unit.waiting import until

MODEL_INFO = "GET /api/{type}/{namespace}/{name}"


@pytest.fixture
async def worker(hub: HubServer, tmp_path: Path) -> AsyncIterator[HubWorker]:
    worker = HubWorker(tmp_path / "home", hub.endpoint, stall_s=10)
    yield worker
    await worker.close()


def access(worker: HubWorker, hub: HubServer, **fields: Any) -> Awaitable[dict[str, Any]]:
    return worker.call("access", **{"repo_id": REPO, "token": hub.token("alice"), **fields})


async def gone(pid: int) -> None:
    """Until a process is no more; a zombie still is."""
    while Path(f"/proc/{pid}").exists():  # noqa: ASYNC110 - nothing tells of the end of somebody else's process
        await asyncio.sleep(0.01)


async def busy(worker: HubWorker, hub: HubServer) -> tuple[asyncio.Future[dict[str, Any]], int]:
    """A call that the Hub never answers, and the process that makes it."""
    hub.add_fault("GET /api/models/", kind="stall", times=None)
    hub.reset_counters()
    call = asyncio.ensure_future(access(worker, hub))  # noqa: TID251
    await hub.wait_for_requests(MODEL_INFO)
    assert worker.pid is not None
    return call, worker.pid


async def test_one_process_serves_call_after_call(worker: HubWorker, hub: HubServer) -> None:
    assert worker.pid is None, "none before it is needed"
    assert await access(worker, hub) == {"public": False, "can_write": True, "reason": ""}
    first = worker.pid
    moved: list[object] = []
    assert (await access(worker, hub, token=hub.token("alice", "read"), on_progress=moved.append)) == {
        "public": False,
        "can_write": False,
        "reason": "no-write-access",
    }
    assert moved, "signs of life"
    assert worker.pid == first


async def test_what_the_hub_refuses_is_told_in_full(worker: HubWorker, hub: HubServer) -> None:
    echo = f"slow down, {hub.token('alice')}"
    hub.add_fault("GET /api/models/", status=429, message=echo, headers={"RateLimit": '"api";r=0;t=400'})
    with pytest.raises(HubCallFailed) as raised:
        await access(worker, hub)
    error = raised.value
    assert (error.status, error.retry_after_s, error.message) == (429, 401, "slow down, ***")
    assert error.path == f"/api/models/{REPO}"
    with pytest.raises(HubCallFailed) as raised:
        await access(worker, hub, repo_id="alice/none")
    assert (raised.value.status, raised.value.code) == (404, "RepoNotFound")
    with pytest.raises(HubCallFailed) as raised:
        await access(worker, hub, token="hf_unknown")
    assert raised.value.status == 401


async def test_a_connection_that_the_server_closes_is_nothing_to_what_only_asks(
    worker: HubWorker, hub: HubServer, tmp_path: Path
) -> None:
    content = tmp_path / "content"
    content.write_bytes(b"content")
    commit = partial(worker.call, "commit", repo_id=REPO, token=hub.token("alice"))
    commit = partial(commit, delete=[], message="m", description="", parent=None)
    hub.add_fault("POST .*/preupload/", kind="reset")
    assert (await commit(add=[["n/first", str(content)]]))["commit"]
    hub.add_fault("POST .*/commit/", kind="reset", landed=True)
    hub.reset_counters()
    with pytest.raises(HubCallFailed, match="ConnectionError"):
        await commit(add=[["n/second", str(content)]])
    assert hub.counters()["requests"]["POST /api/{type}/{namespace}/{name}/commit/{revision}"] == 1


def test_what_an_error_says_is_one_line_without_the_token() -> None:
    text = "no\x1b[2J\nhf_secret" + "x" * 1_000
    error = presentable({"message": text, "status": None}, "hf_secret")
    assert error["message"].startswith("no [2J ***xxx")
    assert len(error["message"]) == 300
    assert error["status"] is None


async def test_a_call_it_does_not_know(worker: HubWorker, hub: HubServer) -> None:
    with pytest.raises(HubCallFailed, match="KeyError"):
        await worker.call("dance", token=None)
    assert (await access(worker, hub))["can_write"]


async def test_calls_take_turns(worker: HubWorker, hub: HubServer) -> None:
    hub.add_fault("GET /api/models/", kind="stall")
    first = asyncio.ensure_future(access(worker, hub))  # noqa: TID251
    await hub.wait_for_requests(MODEL_INFO)
    second = asyncio.ensure_future(access(worker, hub, repo_id="alice/none"))  # noqa: TID251
    await asyncio.sleep(0)
    assert hub.counters()["requests"][MODEL_INFO] == 1
    hub.clear_faults()
    assert (await first)["can_write"]
    with pytest.raises(HubCallFailed):
        await second


async def test_a_patient_one_lets_the_host_go_first(hub: HubServer, tmp_path: Path) -> None:
    priorities = {}
    for is_patient in (False, True):
        worker = HubWorker(tmp_path / "home", hub.endpoint, is_patient=is_patient)
        try:
            assert (await access(worker, hub))["can_write"]
            assert worker.pid is not None
            threads = Path(f"/proc/{worker.pid}/task").iterdir()
            priorities[is_patient] = {os.getpriority(os.PRIO_PROCESS, int(thread.name)) for thread in threads}
        finally:
            await worker.close()
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    assert priorities == {False: {ours}, True: {min(ours + 5, 19)}}


async def test_an_idle_one_is_let_go_and_missed_by_nobody(hub: HubServer, tmp_path: Path) -> None:
    worker = HubWorker(tmp_path / "home", hub.endpoint, idle_s=0.0)
    try:
        pids = set()
        for _ in range(3):
            assert (await access(worker, hub))["can_write"]
            pid = worker.pid
            assert pid is not None
            pids.add(pid)
            while worker.pid is not None:  # noqa: ASYNC110 - until its timer runs out
                await asyncio.sleep(0)
        assert len(pids) == 3
        await asyncio.gather(*(asyncio.wait_for(gone(pid), 10) for pid in pids))
    finally:
        await worker.close()


async def test_killed_in_the_middle(worker: HubWorker, hub: HubServer) -> None:
    call, pid = await busy(worker, hub)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(RemoteUnavailable, match="worker-died"):
        await call
    hub.clear_faults()
    assert (await access(worker, hub))["can_write"]
    assert worker.pid != pid


async def test_stopped_in_the_middle(hub: HubServer, tmp_path: Path) -> None:
    worker = HubWorker(tmp_path / "home", hub.endpoint, stall_s=4.0)
    try:
        call, pid = await busy(worker, hub)
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(RemoteUnavailable, match="stalled"):
            await call
        await asyncio.wait_for(gone(pid), 10)
    finally:
        await worker.close()


async def test_who_leaves_ends_it(worker: HubWorker, hub: HubServer) -> None:
    call, pid = await busy(worker, hub)
    call.cancel()
    await asyncio.wait([call])
    assert call.cancelled()
    await asyncio.wait_for(gone(pid), 10)
    hub.clear_faults()
    assert (await access(worker, hub))["can_write"]


def test_who_is_hurried_leaves_nothing_open_either(tmp_path: Path) -> None:
    """Cancelled while it waits for the end of the process, as by who stops everything in turn."""

    async def hurry() -> None:
        async with HubServer(tmp_path / "hub") as hub:
            hub.seed_files(REPO, {}, private=True)
            worker = HubWorker(tmp_path / "home", hub.endpoint)
            call, pid = await busy(worker, hub)
            call.cancel()
            while worker.pid is not None:  # noqa: ASYNC110 - not a moment later
                await asyncio.sleep(0)
            call.cancel()
            await asyncio.wait([call])
            await worker.close()
            assert not Path(f"/proc/{pid}").exists()

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        asyncio.run(hurry())
        gc.collect()
    assert not [str(warning.message) for warning in told]


async def test_closing_ends_it_and_the_call(worker: HubWorker, hub: HubServer) -> None:
    call, pid = await busy(worker, hub)
    await worker.close()
    with pytest.raises(RemoteUnavailable, match="worker-died"):
        await call
    await asyncio.wait_for(gone(pid), 10)


@pytest.mark.parametrize("answer", ["no json", "[1]", "5", '{"result": 1', "x" * (2 << 20)], ids=lambda text: text[:12])
async def test_garbage_on_its_output(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: str, worker: HubWorker, hub: HubServer
) -> None:
    program = tmp_path / "program"
    program.write_text(f"#!{sys.executable}\nprint({answer!r}, flush=True)\ninput()\ninput()\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(RemoteUnavailable, match="worker-died"):
        await access(worker, hub)
    monkeypatch.undo()
    assert (await access(worker, hub))["can_write"]


async def test_a_python_that_cannot_be_started(
    monkeypatch: pytest.MonkeyPatch, worker: HubWorker, hub: HubServer
) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    with pytest.raises(RemoteUnavailable, match="worker-died"):
        await access(worker, hub)


async def test_what_lies_in_the_working_directory_is_none_of_its_modules(
    worker: HubWorker, hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "secrets.py").write_text("raise SystemExit('somebody else')")
    monkeypatch.setenv("PYTHONPATH", python_path())
    monkeypatch.chdir(tmp_path)
    assert (await access(worker, hub))["can_write"]


async def test_that_it_starts_is_a_sign_of_life(
    worker: HubWorker, hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is imported may take long on a busy host; who waits for bytes has to hear that it is not in vain."""
    may_start, slow = tmp_path / "may-start", tmp_path / "slow"
    slow.write_text(f'#!/bin/sh\nwhile [ ! -e "{may_start}" ]; do sleep 0.05; done\nexec "{sys.executable}" "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))
    monkeypatch.setattr("neffd.remotes.hub.workers._SIGN_S", 0.01, raising=False)
    signs = list[object]()
    call = asyncio.ensure_future(access(worker, hub, on_progress=signs.append))  # noqa: TID251
    try:
        await until(lambda: len(signs) > 1, "signs of life")
    finally:
        may_start.touch()
    assert (await call)["can_write"]


async def test_it_does_not_outlive_its_daemon(hub: HubServer, tmp_path: Path) -> None:
    """Not even when it is stuck: here it is stopped, and cannot see that its input ended."""
    program = (
        "import asyncio, sys; from pathlib import Path; from neffd.remotes.hub.workers import HubWorker\n"
        "async def run():\n"
        "    worker = HubWorker(Path(sys.argv[1]), sys.argv[2])\n"
        f"    call = asyncio.ensure_future(worker.call('access', repo_id='{REPO}', token=None))\n"
        "    while worker.pid is None: await asyncio.sleep(0.01)\n"
        "    print(worker.pid, flush=True)\n"
        "    await call\n"
        "asyncio.run(run())\n"
    )
    hub.add_fault("GET /api/models/", kind="stall", times=None)
    daemon = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(tmp_path / "home"), hub.endpoint, stdout=asyncio.subprocess.PIPE
    )
    assert daemon.stdout is not None
    pid = int(await daemon.stdout.readline())
    await hub.wait_for_requests(MODEL_INFO)
    os.kill(pid, signal.SIGSTOP)
    daemon.kill()
    await daemon.wait()
    await asyncio.wait_for(gone(pid), 10)


async def test_its_environment(
    worker: HubWorker, hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = {
        "HF_TOKEN": "hf_not_yours",
        "HUGGING_FACE_HUB_TOKEN": "hf_not_yours",
        "HF_HUB_OFFLINE": "1",
        "HF_DEBUG": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HOME": "/nonexistent",
        "HF_HUB_DISABLE_XET": "1",
        "NOTIFY_SOCKET": "/nonexistent",
        "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",
        "HTTPS_PROXY": "http://proxy.invalid",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert (await access(worker, hub))["can_write"], "what would silence huggingface_hub does not reach it"
    environ = dict(line.split("=", 1) for line in read_proc(worker.pid, "environ") if "=" in line)
    if not environ:
        pytest.skip("the environment of a process that forbids to be looked at is for root only")
    assert not {
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "HF_HUB_OFFLINE",
        "HF_DEBUG",
        "NOTIFY_SOCKET",
        "GLIBC_TUNABLES",
    } & set(environ)
    assert environ["HF_HOME"] == str(tmp_path / "home")
    assert environ["HF_ENDPOINT"] == hub.endpoint
    assert environ["HTTPS_PROXY"] == given["HTTPS_PROXY"]
    assert environ["HF_HUB_DISABLE_XET"] == "1"


async def test_its_token_is_nowhere_to_be_seen(worker: HubWorker, hub: HubServer) -> None:
    call, pid = await busy(worker, hub)
    token = hub.token("alice")
    assert "neffd.remotes.hub.worker" in command_line(pid)
    for process in (pid, os.getpid()):
        assert not any(token in text for text in (*command_line(process), *read_proc(process, "environ")))
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    assert [line.split()[4:6] for line in limits if line.startswith("Max core file size")] == [["0", "0"]]
    call.cancel()
    await asyncio.wait([call])


def read_proc(pid: int | None, file: str) -> list[str]:
    try:
        return Path(f"/proc/{pid}/{file}").read_bytes().decode().split("\0")
    except PermissionError:
        return []
