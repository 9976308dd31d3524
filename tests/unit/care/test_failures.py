"""Logs of failed compiles, as they were reported in public, and what each says about another try."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from neffd.care.failures import EDGE_BYTES, RULES, Failure, classify

COMMAND = "Failed compilation with ['neuronx-cc', 'compile', '--framework=XLA', '/tmp/x/m.pb', '--output', 'm.neff']: "
F137 = (
    "[F137] neuronx-cc was forcibly killed - This most commonly occurs due to insufficient system memory. "
    "Using a smaller data type, dimensions, batch size, or a larger instance type may help."
)
TRANSIENT = {
    F137: "out-of-memory",
    f"[NCC_INLA001] walrus ended\n{F137}\nexit code 70": "out-of-memory",
    "terminate called after throwing an instance of 'std::bad_alloc'": "out-of-memory",
    "MemoryError: Unable to allocate 12 GiB": "out-of-memory",
    "OSError: [Errno 12] Cannot allocate memory": "out-of-memory",
    "neuronx-cc died with <Signals.SIGKILL: 9>.": "killed",
    "2026-01-01 ERROR Backend exited with code -9": "killed",
    "Command returned non-zero exit status 137.": "killed",
    "line one\nKilled\n": "killed",
    "Killed": "killed",
    "Traceback (most recent call last):\n  ...\nKeyboardInterrupt": "interrupted",
    "died with <Signals.SIGTERM: 15>.": "interrupted",
    "returncode=-15": "interrupted",
    "exit code: 130": "interrupted",
    "[NCC_IIO002] write failed: No space left on device": "disk-full",
    "OSError: [Errno 122] Disk quota exceeded: 'penguin.json'": "disk-full",
    "died with <Signals.SIGSEGV: 11>.": "crashed",
    "Segmentation fault (core dumped)": "crashed",
    "exited with code -6": "crashed",
    "returned non-zero exit status 134.": "crashed",
    "Traceback (most recent call last):\nModuleNotFoundError: No module named 'neuronxcc'\nexit code 1": "not-started",
    "FileNotFoundError: [Errno 2] No such file or directory: 'neuronx-cc'": "not-started",
    "PermissionError: [Errno 13] Permission denied: '/opt/bin/neuronx-cc'": "not-started",
    "/bin/sh: 1: neuronx-cc: not found": "not-started",
    "bash: line 1: neuronx-cc: command not found": "not-started",
    "neuronx-cc: error while loading shared libraries: libwalrus.so: cannot open shared object file": "not-started",
    "compiler exit code: 126": "not-started",
    "returned non-zero exit status 127.": "not-started",
    "ERROR: Compiler exit code 70": "no-diagnosis",
    "Exception: something went wrong in the middle": "no-diagnosis",
    "": "no-diagnosis",
    "exit code 0": "no-diagnosis",
}
DIAGNOSED = {
    "ERROR:neuronxcc: [NCC_EVRF059] klir_binary not found": "compiler-error",
    "[NCC_EOOM002] out of memory: the model needs 18 GB of device memory": "compiler-error",
    "[XTP003] Too many partitions": "compiler-error",
    "[TEN404] Internal tensorizer error: exit code 70": "compiler-error",
    "[NCC_ITEN404] assertion\nneuronx-cc died with <Signals.SIGABRT: 6>.": "compiler-error",
    "neuronx-cc: error: unrecognized arguments: --modle-type": "bad-arguments",
    "Command returned non-zero exit status 1.": "compiler-exit",
}


@pytest.mark.parametrize("prefix", ["", COMMAND])
@pytest.mark.parametrize(("log", "reason"), TRANSIENT.items())
def test_what_passes(log: str, reason: str, prefix: str) -> None:
    failure = classify((prefix + log).encode())
    assert (failure.reason, failure.is_transient) == (reason, True)


@pytest.mark.parametrize("prefix", ["", COMMAND])
@pytest.mark.parametrize(("log", "reason"), DIAGNOSED.items())
def test_what_stays(log: str, reason: str, prefix: str) -> None:
    failure = classify((prefix + log).encode())
    assert (failure.reason, failure.is_transient) == (reason, False)


def test_interrupted_before_the_compiler_ran() -> None:
    assert classify(b"Failed compilation: interrupted").reason == "interrupted"


def test_words_in_the_command_decide_nothing() -> None:
    command = "Failed compilation with ['neuronx-cc', '/tmp/KeyboardInterrupt/NCC_EVRF059/MemoryError.pb']: "
    assert classify((command + "[XTP003] no").encode()) == Failure("compiler-error", False, "[XTP003] no")
    assert classify(command.encode()) == Failure("no-diagnosis", True, "")


def test_the_text_is_the_line_that_decided() -> None:
    log = f"{COMMAND}starting\n  [NCC_EVRF059] \x1b[31mbad\x1b[0m graph\nmore\n"
    assert classify(log.encode()).text == "[NCC_EVRF059] ?[31mbad?[0m graph"
    long_line = "x" * 5_000 + " [NCC_EVRF059] the reason " + "y" * 5_000
    assert "[NCC_EVRF059] the reason" in classify(long_line.encode()).text


def test_every_rule_has_its_source_and_is_reached() -> None:
    assert all(rule.source for rule in RULES)
    assert {rule.reason for rule in RULES} | {"no-diagnosis"} == {*TRANSIENT.values(), *DIAGNOSED.values()}


@given(st.binary(max_size=5_000))
@example(b"\xff" * 300)
@example(b"Failed compilation with " + b"[" * 3_000)
@example("\u2028[NCC_A1]\u2028".encode())
def test_any_bytes_have_a_class(log: bytes) -> None:
    failure = classify(log)
    assert failure.reason
    assert len(failure.text) <= 200
    assert failure.text.isprintable()


@pytest.mark.parametrize("unit", [b"x", b"exit code ", b"Failed compilation with [", b"[A\n", b"NCC_", b"returned - "])
def test_no_pattern_loses_itself_in_a_long_line(unit: bytes) -> None:
    assert classify((unit * (2 * EDGE_BYTES))[: 2 * EDGE_BYTES]).reason
