"""What this process may use of the machine: cores and memory, by affinity and control groups."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

# Where neither the system nor a control group tells how much memory there is.
_UNKNOWN_MEMORY_BYTES = 8 * 2**30


def usable_cores(root: Path = Path("/")) -> int:
    """The physical cores that this process may use: by its affinity and its container's quota.

    Of a core's hyperthreads one counts, as both share what multiplies matrices. `root` is where
    /proc and /sys are.
    """
    if hasattr(os, "sched_getaffinity"):
        allowed = os.sched_getaffinity(0)
    else:  # pragma: no cover  # other systems than Linux
        return os.cpu_count() or 1
    cores = {_siblings(root, cpu) for cpu in allowed}
    quota = min((_quota(folder) for folder in _groups(root, "cpu")), default=math.inf)
    return max(1, min(len(cores), int(min(quota, 2**20))))


def usable_memory_bytes(root: Path = Path("/")) -> int:
    """The memory of the machine, or the limit of the container if that is lower."""
    least = _UNKNOWN_MEMORY_BYTES
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemTotal:"):
                least = int(line.split()[1]) * 1024
    except OSError:  # pragma: no cover  # other systems than Linux
        if hasattr(os, "sysconf"):
            least = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for folder in _groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(folder / name)
            if text.isdigit():
                least = min(least, int(text))
    return least


def _siblings(root: Path, cpu: int) -> str:
    """The hyperthreads of this one's core, as text that is the same for all of them."""
    path = root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
    return _read(path) or str(cpu)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of the control groups of this process for a controller, innermost first."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if not controllers:
            base = root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            base = root / "sys/fs/cgroup" / controller
        else:
            continue
        # Within a container the path may be the one outside of it, and does not exist; the
        # container's own group is the base then.
        folder = base / group.lstrip("/")
        while folder != base and base in folder.parents:
            yield folder
            folder = folder.parent
        yield base


def _quota(folder: Path) -> float:
    """The cores that one control group allows."""
    quota, _, period = _read(folder / "cpu.max").partition(" ")
    if not quota:
        quota = _read(folder / "cpu.cfs_quota_us")
        period = _read(folder / "cpu.cfs_period_us")
    if not (quota.isdigit() and period.isdigit() and int(period)):
        return math.inf
    return int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
