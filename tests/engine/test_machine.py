"""Cores and memory, by what /proc and /sys say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from asteady._engine.machine import usable_cores, usable_memory_bytes


@pytest.fixture(autouse=True)
def eight_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    allow(monkeypatch, *range(8))


def allow(monkeypatch: pytest.MonkeyPatch, *processors: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(processors), raising=False)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def hyperthreads(root: Path) -> None:
    """Processors 0 to 7 are four cores: 0 and 4, 1 and 5, ..."""
    for number in range(8):
        pair = f"{number % 4},{number % 4 + 4}"
        write(root, {f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list": pair})


def test_without_proc_and_sys_the_affinity_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert usable_cores(tmp_path) == 8
    allow(monkeypatch, 2, 7)
    assert usable_cores(tmp_path) == 2


def test_of_hyperthreads_one_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hyperthreads(tmp_path)
    assert usable_cores(tmp_path) == 4
    allow(monkeypatch, 1, 5)
    assert usable_cores(tmp_path) == 1
    allow(monkeypatch, 4, 5, 6)
    assert usable_cores(tmp_path) == 3


V1 = "12:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n1:name=systemd:/docker/x"


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/a/b", {"a/b/cpu.max": "300000 100000"}, 3),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "200000 100000"}, 2),
        ("0::/a/b", {"a/b/cpu.max": "300000 100000", "a/cpu.max": "500000 100000"}, 3),
        # Less than a core, and a part of one.
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/", {"cpu.max": "350000 100000"}, 3),
        ("0::/", {"cpu.max": "max 100000"}, 8),
        ("0::/", {"cpu.max": "9900000 100000"}, 8),
        ("0::/", {"cpu.max": ""}, 8),
        ("0::/", {"cpu.max": "100000 0"}, 8),
        # The path is the one outside of the container.
        ("0::/outside/x", {"cpu.max": "200000 100000"}, 2),
        ("0::/a", {"b/cpu.max": "100000 100000"}, 8),
        (V1, {"cpu/docker/x/cpu.cfs_quota_us": "-1"}, 8),
        (
            V1,
            {
                "cpu/docker/x/cpu.cfs_quota_us": "400000",
                "cpu/docker/x/cpu.cfs_period_us": "200000",
            },
            2,
        ),
        (V1, {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
    ],
)
def test_the_quota_of_the_container_bounds_the_cores(
    tmp_path: Path, groups: str, files: dict[str, str], cores: int
) -> None:
    write(tmp_path, {"proc/self/cgroup": groups})
    write(tmp_path / "sys/fs/cgroup", files)
    assert usable_cores(tmp_path) == cores


def test_the_lower_of_hyperthreads_and_quota_counts(tmp_path: Path) -> None:
    hyperthreads(tmp_path)
    write(tmp_path, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "600000 100000"})
    assert usable_cores(tmp_path) == 4
    write(tmp_path, {"sys/fs/cgroup/cpu.max": "200000 100000"})
    assert usable_cores(tmp_path) == 2


@pytest.mark.parametrize(
    ("groups", "files", "mebibytes"),
    [
        ("", {}, 16384),
        ("0::/a/b", {"a/b/memory.max": "max"}, 16384),
        ("0::/a/b", {"a/b/memory.max": str(2**30)}, 1024),
        ("0::/a/b", {"a/b/memory.max": "max", "a/memory.max": str(2**31)}, 2048),
        ("0::/a/b", {"a/b/memory.max": str(2**40)}, 16384),
        ("0::/outside", {"memory.max": str(2**32)}, 4096),
        (V1, {"memory/docker/x/memory.limit_in_bytes": str(2**30)}, 1024),
        (V1, {"memory/docker/x/memory.limit_in_bytes": "9223372036854771712"}, 16384),
    ],
)
def test_the_limit_of_the_container_bounds_the_memory(
    tmp_path: Path, groups: str, files: dict[str, str], mebibytes: int
) -> None:
    total = f"MemTotal:       {16 * 2**20} kB\nMemFree:        1024 kB"
    write(tmp_path, {"proc/meminfo": total, "proc/self/cgroup": groups})
    write(tmp_path / "sys/fs/cgroup", files)
    assert usable_memory_bytes(tmp_path) == mebibytes * 2**20


def test_this_machine_has_something() -> None:
    assert 1 <= usable_cores() <= 8
    assert usable_memory_bytes() > 2**24
