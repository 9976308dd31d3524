"""Entries written as the framework would, byte by byte known, for tests that need no compiler."""

from __future__ import annotations

import hashlib
import json
import os
import random
import struct
from collections.abc import Mapping
from pathlib import Path

from neff import keys
from neff.keys import ModuleName
from neffd.layouts import xla

NAMESPACE = "neuronxcc-2.20.9961.0+0acef03a"
OLD_NAMESPACE = "neuronxcc-2.14.227.0+2d4f85be"
FLAGS = ["--target=trn1"]


def module(number: int, namespace: str = NAMESPACE) -> ModuleName:
    """The name of the entry number `number`, with the flags hash that its flags have."""
    return ModuleName(namespace, f"MODULE_{10**18 + number}+{xla.flags_hash(namespace, FLAGS)}")


def neff_bytes(seed: int, size_bytes: int = 20_000) -> bytes:
    """A NEFF whose header is true to its size, and whose content depends on `seed`."""
    data = random.Random(seed).randbytes(size_bytes - xla.NEFF_HEADER_BYTES)
    header = struct.pack("<QQQ", 2, xla.NEFF_HEADER_BYTES, len(data))
    return header.ljust(xla.NEFF_HEADER_BYTES, b"\0") + data


def files(name: ModuleName, seed: int = 0, *, wrapped: bool = False) -> dict[str, bytes]:
    """Everything that stock leaves in a ready entry of this compiler version."""
    content = {"model.hlo_module.pb": b"hlo " + name.key.encode()}
    if keys.ready_mark(name.namespace) == "model.done":
        content["compile_flags.json"] = json.dumps(FLAGS).encode()
    content["model.neff"] = neff_bytes(seed)
    if wrapped:
        content["wrapped_neff.hlo"] = b"wrapped " + neff_bytes(seed + 1, 3_000)
    if keys.ready_mark(name.namespace) == "model.done":
        content["model.done"] = b""
    return content


def write(root: Path, name: ModuleName, content: Mapping[str, bytes]) -> Path:
    """Write an entry in place, file by file in stock's order, ready mark last; returns its folder."""
    folder = root / name.namespace / name.key
    folder.mkdir(parents=True, exist_ok=True)
    for file in xla.publishing_order(name.namespace, list(content)):
        (folder / file).write_bytes(content[file])
    return folder


def read(root: Path, name: ModuleName) -> dict[str, bytes]:
    """What an entry's folder holds; empty if there is none."""
    folder = root / name.namespace / name.key
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else {}


def shared(content: Mapping[str, bytes]) -> dict[str, bytes]:
    """`content` without what neffd adds on a remote."""
    return {file: data for file, data in content.items() if file != "neffd.json"}


def digest(content: Mapping[str, bytes]) -> str:
    """One hash over names and bytes."""
    total = hashlib.sha256()
    for file in sorted(content):
        total.update(os.fsencode(file) + b"\0" + hashlib.sha256(content[file]).digest())
    return total.hexdigest()
