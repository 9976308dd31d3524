"""The committed HLO modules."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

HLO_DIR = Path(__file__).parent / "hlo"
_SUFFIX = ".hlo_module.pb"


@dataclass(frozen=True)
class Graph:
    name: str
    path: Path
    data: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def module_hash(self) -> str:
        """A decimal 64-bit number, as PJRT's graph hashes look; the real algorithm is not public."""
        return str(int.from_bytes(hashlib.sha256(self.data).digest()[:8], "big"))


def load_graphs(names: list[str] | None = None) -> list[Graph]:
    """All graphs by name, or the named ones in the order asked for."""
    paths = [HLO_DIR / f"{name}{_SUFFIX}" for name in names] if names else sorted(HLO_DIR.glob(f"*{_SUFFIX}"))
    return [Graph(path.name.removesuffix(_SUFFIX), path, path.read_bytes()) for path in paths]
