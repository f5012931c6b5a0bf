"""Models of the hub are listed and removed; files that other revisions use stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from asteady._engine.models.hub import discard, in_cache, parse_reference
from tests.engine.hub.helpers import REFERENCE, REPO, blobs, pull, run
from tests.engine.hub.server import HubServer

pytest.importorskip("huggingface_hub")


def test_the_command_pulls_lists_shows_and_removes(
    hub: HubServer, gguf: bytes, tmp_path: Path
) -> None:
    commit = hub.publish(REPO, {"small-q8_0.gguf": gguf})
    code, out, err = run("pull", f"hf:{REPO}:Q8_0")
    assert (code, err) == (0, "")  # its progress is for terminals
    path = Path(out.strip())
    assert path.read_bytes() == gguf
    assert run("path", REFERENCE, HF_HUB_OFFLINE="1")[1] == out
    code, table, err = run("list")
    assert code == 0, err
    lines = table.splitlines()
    assert [line.split()[:2] for line in lines[1:3]] == [
        ["builtin", "generation"],
        ["builtin", "embedding"],
    ]
    (row,) = [line for line in lines if REFERENCE in line]
    assert commit[:12] in row
    code, out, err = run("remove", REFERENCE)
    assert code == 0, err
    assert f"{len(gguf):,}" in out
    assert not path.exists()
    assert blobs(tmp_path) == []
    code, out, err = run("remove", REFERENCE)
    assert (code, out) == (1, "")
    assert "is not downloaded" in err
    code, out, err = run("path", REFERENCE, HF_HUB_OFFLINE="1")
    assert (code, out) == (1, "")


def test_removing_one_revision_leaves_files_that_another_uses(
    hub: HubServer, gguf: bytes, caches: Path, tmp_path: Path
) -> None:
    old = hub.publish(REPO, {"small-q8_0.gguf": gguf})
    first = pull(f"{REFERENCE}@{old}", caches)
    hub.publish(REPO, {"small-q8_0.gguf": gguf, "new": b""})
    second = pull(REFERENCE, caches)
    assert discard(first.files[0]) == 0
    assert second.files[0].read_bytes() == gguf
    assert not first.files[0].parent.exists()
    assert discard(second.files[0]) == len(gguf)
    assert blobs(tmp_path) == []


def test_removing_one_file_leaves_the_others_of_its_commit(
    hub: HubServer, gguf: bytes, caches: Path, tmp_path: Path
) -> None:
    other = gguf[:-1] + bytes([gguf[-1] ^ 1])
    hub.publish(REPO, {"a-Q4_0.gguf": gguf, "b-Q8_0.gguf": other})
    first, second = pull(f"hf:{REPO}:Q4_0", caches), pull(f"hf:{REPO}:Q8_0", caches)
    assert len(blobs(tmp_path)) == 2
    assert discard(first.files[0]) == len(gguf)
    assert len(blobs(tmp_path)) == 1
    assert second.files[0].read_bytes() == other
    assert in_cache(parse_reference(f"hf:{REPO}:Q8_0")) is not None
