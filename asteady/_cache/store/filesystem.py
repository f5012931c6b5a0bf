"""Whether a directory is on a network file system, where SQLite's write-ahead log does not work."""

from __future__ import annotations

import os
from pathlib import Path

# Processes on several machines would each have their own shared-memory file.
NETWORK = frozenset(
    {
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "drvfs",
        "fuse.glusterfs",
        "fuse.s3fs",
        "fuse.sshfs",
        "gfs2",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "smb3",
        "smbfs",
    }
)
MOUNTS = Path("/proc/self/mountinfo")


def network_filesystem(directory: Path, mounts: Path = MOUNTS) -> str | None:
    """The type of the network file system that holds `directory`; None if local or not known."""
    try:
        table = mounts.read_text(errors="surrogateescape")
        path = os.path.realpath(directory)
    except OSError:
        return None
    best, found = "", None
    for line in table.splitlines():
        # 36 35 98:0 /root /mount/point rw,noatime master:1 - ext4 /dev/sda1 rw
        fields, _, kind = line.partition(" - ")
        parts = fields.split(" ")
        if len(parts) < 5 or not kind:
            continue
        point = parts[4].encode("latin-1", "surrogateescape").decode("unicode_escape")
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        # A later mount on the same point hides the earlier one.
        if inside and len(point) >= len(best):
            best, found = point, kind.split(" ")[0]
    return found if found in NETWORK else None
