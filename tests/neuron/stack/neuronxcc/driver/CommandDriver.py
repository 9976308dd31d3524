"""The `neuronx-cc` command: takes every known spelling of its arguments, makes a NEFF that depends on the graph."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import standin_switches as switches

from neuronxcc import neff_file, neff_wrapper

_VALUE_OPTIONS = ("--framework", "--output", "--target", "--logfile", "--lnc", "--verbose")
_PLACE_OPTIONS = ("--output", "--logfile", "--verbose")  # say where, not what: no part of the NEFF
_USAGE_EXIT = 2


@dataclass(frozen=True)
class Command:
    source: Path
    output: Path
    options: dict[str, str]
    words: tuple[str, ...]  # all that determines the result, in order


def main() -> int:
    return run(sys.argv[1:])


def run(argv: list[str]) -> int:
    if "--version" in argv:
        print(f"NeuronX Compiler version {switches.compiler_version()}\n\nPython version {sys.version.split()[0]}")
        return 0
    try:
        command = parse(argv)
    except ValueError as error:
        print(f"neuronx-cc: error: {error}", file=sys.stderr)
        return _USAGE_EXIT
    hlo = b"".join(_source_bytes(command.source))
    _record(argv, hlo)
    _work(command, hlo)
    exit_code = int(switches.text("EXIT_CODE", "0"))
    if exit_code and _fails(hlo):
        return _fail(exit_code)
    _write_outputs(command, hlo)
    return 0


def parse(argv: list[str]) -> Command:
    """The input is the first plain word that exists; `--model-type transformer` and the like have plain words too."""
    options: dict[str, str] = {}
    plain: list[str] = []
    words: list[str] = []
    rest = iter(argv)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name in _VALUE_OPTIONS:
            options[name] = value if equals else next(rest, "")
            if name not in _PLACE_OPTIONS:
                words.append(f"{name}={options[name]}")
        elif argument.startswith("-"):
            options[name] = value
            words.append(argument)
        else:
            plain.append(argument)
    if "compile" not in plain:
        raise ValueError("the first word must be 'compile'")
    plain.remove("compile")
    source = next((word for word in plain if Path(word).exists()), None)
    if source is None:
        raise ValueError(f"no input file among {plain}")
    plain.remove(source)
    return Command(Path(source), Path(options.get("--output") or "file.neff"), options, (*words, *plain))


def _source_bytes(source: Path) -> Iterator[bytes]:
    """One file, or a traced model's folder with graph, metadata and weights."""
    files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
    return (path.read_bytes() for path in files)


def _record(argv: list[str], hlo: bytes) -> None:
    log = switches.text("COMPILE_LOG")
    if not log:
        return
    digest = hashlib.sha256(hlo).hexdigest()
    line = json.dumps({"pid": os.getpid(), "time": time.time(), "argv": argv, "hlo_sha256": digest}) + "\n"
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)


def _work(command: Command, hlo: bytes) -> None:
    Path(f"neuronxcc-{uuid.uuid4().hex[:8]}").mkdir()
    log = Path(command.options.get("--logfile") or "log-neuron-cc.txt")
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(f"neuronx-cc {switches.compiler_version()} {' '.join(command.words)}\n")
    seconds = switches.number("COMPILE_S", 0) + switches.number("COMPILE_S_PER_MIB", 0) * len(hlo) / 2**20
    time.sleep(seconds)


def _fails(hlo: bytes) -> bool:
    """All graphs, or the ones named by the start of their sha256."""
    chosen = [prefix for prefix in switches.text("FAIL_SHA256").split(",") if prefix]
    return not chosen or hashlib.sha256(hlo).hexdigest().startswith(tuple(chosen))


def _fail(exit_code: int) -> int:
    """A negative code is a death by that signal."""
    print(switches.text("FAIL_LOG", "[NCC_STANDIN] internal compiler error"), file=sys.stderr, flush=True)
    if exit_code < 0:
        os.kill(os.getpid(), -exit_code)
    return exit_code


def _write_outputs(command: Command, hlo: bytes) -> None:
    digest = hashlib.sha256("\0".join(command.words).encode() + b"\0" + hlo).digest()
    neff = neff_file.build(
        name=command.output.name,
        version=switches.compiler_version(),
        uuid=uuid.UUID(switches.text("NEFF_UUID") or str(uuid.uuid4())).bytes,
        files=neff_file.graph_files(digest, int(len(hlo) * switches.number("NEFF_BYTES_PER_HLO_BYTE", 2))),
        lnc_size=int(command.options.get("--lnc") or 1),
    )
    command.output.write_bytes(neff)
    if "--enable-internal-neff-wrapper" in command.options:
        Path("wrapped_neff.hlo").write_bytes(neff_wrapper.wrap(neff, hlo))
