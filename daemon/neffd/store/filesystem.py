"""What kind of file system a directory is on, as the kernel's table of mounts says."""

from __future__ import annotations

import re
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
_ESCAPE = re.compile(r"\\([0-7]{3})")
# fmt: off
_NETWORK = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "ceph", "lustre", "beegfs", "gpfs", "glusterfs", "ocfs2",
    "gfs2", "orangefs", "pvfs2", "wekafs", "panfs", "davfs", "coda",
})
# fmt: on
# After `fuse.`, or as the source of a plain `fuse` mount. Others, such as fuse-overlayfs, are local.
_NETWORK_FUSE = re.compile(
    r"sshfs|s3|goofys|gcsfuse|blobfuse|juicefs|gluster|ceph|rclone|davfs|beegfs|lizardfs|moosefs|mfs|hf-mount|alluxio|"
    r"curlftpfs|seaweed|weed"
)


def network_file_system(path: Path) -> str | None:
    """The type of the network file system that `path` is on, such as `nfs4`; None for a local one, or one unknown.

    A path that does not exist yet is where its first parent that does is.
    """
    try:
        mounts = _MOUNTS.read_text(errors="surrogateescape")
    except OSError:
        return None
    return _network_type(path.resolve(), mounts)


def _network_type(path: Path, mounts: str) -> str | None:
    found, depth = None, -1
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        place = Path(_ESCAPE.sub(lambda code: chr(int(code[1], 8)), before.split()[4]))
        # A later mount on the same place hides the earlier one.
        if path.is_relative_to(place) and len(place.parts) >= depth:
            found, depth = after.split()[:2], len(place.parts)
    if found is None:
        return None
    kind, source = found
    if kind.startswith("fuse"):
        name = kind.partition(".")[2] or source
        return kind if _NETWORK_FUSE.search(name) else None
    return kind if kind in _NETWORK else None
