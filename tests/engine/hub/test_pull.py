"""Models are pulled from the hub once, and are then found without it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from asteady import ModelNotFoundError, Session, SessionClosedError
from asteady._engine.models.hub import parse_reference, recorded
from asteady._engine.models.resolve import resolve_model
from tests.engine.hub.helpers import REFERENCE, REPO, blobs, pull
from tests.engine.hub.server import HubServer
from tests.gguf_files import parts_of, write_llama

pytest.importorskip("huggingface_hub")


def test_a_model_is_pulled_once_and_then_found_without_the_hub(
    hub: HubServer, gguf: bytes, caches: Path, tmp_path: Path
) -> None:
    commit = hub.publish(REPO, {"small-q8_0.gguf": gguf, "README.md": b"hi"})
    before = set(threading.enumerate())
    file = resolve_model(f"hf:{REPO}:Q8_0", kind="generation", cache_dir=caches)
    assert file.path.read_bytes() == gguf
    assert file.reference == f"hf:{REPO}:Q8_0"
    assert commit in file.path.parts
    assert tmp_path / "hf" in file.path.parents
    entry = recorded(parse_reference(f"hf:{REPO}:Q8_0"), caches)
    assert entry is not None
    assert (entry.commit, entry.sha256) == (commit, (file.sha256,))
    # Progress bars of tqdm would start a thread that never ends.
    begun = set(threading.enumerate()) - before
    assert [thread for thread in begun if "tqdm" in thread.name] == []
    asked = len(hub.requests)
    assert resolve_model(f"hf:{REPO}:Q8_0", kind="generation", cache_dir=caches) == file
    # Also with another cache directory, and for another way to name it.
    again = resolve_model(REFERENCE, kind="generation", cache_dir=tmp_path / "other")
    assert (again.path, again.sha256) == (file.path, file.sha256)
    pinned = resolve_model(f"{REFERENCE}@{commit}", kind="generation", cache_dir=caches)
    assert pinned.path == file.path
    assert pull(f"{REFERENCE}@{commit}", caches).commit == commit
    assert len(hub.requests) == asked


def test_a_pulled_model_needs_neither_the_network_nor_the_extra(
    hub: HubServer, gguf: bytes, caches: Path
) -> None:
    hub.publish(REPO, {"small-q8_0.gguf": gguf})
    pull(REFERENCE, caches)
    program = (
        "import sys; sys.modules['huggingface_hub'] = None\n"
        "from pathlib import Path\n"
        "from asteady._engine.models.resolve import resolve_model\n"
        "print(resolve_model(sys.argv[1], kind='generation', cache_dir=Path(sys.argv[2])).path)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, REFERENCE, str(caches)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9"},
    )
    assert done.stdout.strip().endswith("small-q8_0.gguf")


async def _generate(reference: str) -> str:
    async with Session(generation_model=reference, workers=1) as session:
        return await session.generate("hello", max_new_tokens=3)


@pytest.mark.anyio
async def test_a_session_pulls_what_it_needs(hub: HubServer, gguf: bytes) -> None:
    hub.publish(REPO, {"small-q8_0.gguf": gguf})
    assert await _generate(REFERENCE) == await _generate(f"hf:{REPO}:Q8_0")
    assert len(hub.ranges) == 1


@pytest.mark.anyio
async def test_many_callers_pull_a_model_once(hub: HubServer, gguf: bytes) -> None:
    hub.publish(REPO, {"small-q8_0.gguf": gguf})
    async with Session(generation_model=REFERENCE, workers=1) as session:
        await asyncio.gather(
            *(session.generate(f"hello {number}", max_new_tokens=1) for number in range(20))
        )
    assert len(hub.ranges) == 1


@pytest.mark.anyio
async def test_closing_a_session_does_not_wait_for_a_download(
    hub: HubServer, gguf: bytes, caches: Path, tmp_path: Path
) -> None:
    hub.publish(REPO, {"small-q8_0.gguf": gguf})
    hub.held = threading.Event()
    before = set(threading.enumerate())
    async with Session(generation_model=REFERENCE, workers=1) as session:
        waiting = asyncio.create_task(session.generate("hello"))
        assert await anyio.to_thread.run_sync(hub.halfway.wait, 120)
        new = set(threading.enumerate()) - before
        (thread,) = [thread for thread in new if thread.name == "asteady-fetch"]
        with anyio.fail_after(60):
            await session.aclose()
    with pytest.raises(SessionClosedError):
        await waiting
    # When the rest of the file arrives later, it is not used.
    hub.held.set()
    await anyio.to_thread.run_sync(thread.join, 120)
    assert not thread.is_alive()
    assert blobs(tmp_path) == []
    assert recorded(parse_reference(REFERENCE), caches) is None


def test_ctrl_c_ends_a_program_during_a_download(hub: HubServer, gguf: bytes) -> None:
    hub.publish(REPO, {"small-q8_0.gguf": gguf})
    hub.held = threading.Event()
    with subprocess.Popen(
        [sys.executable, "-m", "asteady", "generate", "--model", REFERENCE, "hello"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert hub.halfway.wait(120)
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=120)
        finally:
            process.kill()
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err


def test_all_parts_of_a_split_model_are_pulled(
    hub: HubServer, caches: Path, tmp_path: Path
) -> None:
    parts = parts_of(write_llama(tmp_path / "m-Q8_0.gguf", split_tensors=11))
    hub.publish(REPO, {f"sub/{part.name}": part.read_bytes() for part in parts})
    file = resolve_model(f"hf:{REPO}:Q8_0", kind="generation", cache_dir=caches)
    local = resolve_model(str(parts[0]), kind="generation", cache_dir=caches)
    assert file.path.name == parts[0].name
    assert (file.sha256, file.size_bytes) == (local.sha256, local.size_bytes)


def test_a_moved_tag_is_logged_by_pull_and_ignored_by_a_session(
    hub: HubServer, gguf: bytes, caches: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = hub.publish(REPO, {"small-q8_0.gguf": gguf}, revision="v1")
    reference = f"{REFERENCE}@v1"
    first = resolve_model(reference, kind="generation", cache_dir=caches)
    other = gguf[:-1] + bytes([gguf[-1] ^ 1])
    new = hub.publish(REPO, {"small-q8_0.gguf": other}, revision="v1")
    with caplog.at_level(logging.WARNING, "asteady"):
        assert resolve_model(reference, kind="generation", cache_dir=caches) == first
        assert not caplog.records
        assert pull(reference, caches).commit == new
    (record,) = caplog.records
    assert old in record.getMessage()
    assert new in record.getMessage()
    now = resolve_model(reference, kind="generation", cache_dir=caches)
    assert now.sha256 != first.sha256
    pinned = resolve_model(f"{REFERENCE}@{old}", kind="generation", cache_dir=caches)
    assert pinned.sha256 == first.sha256
    caplog.clear()
    assert pull(reference, caches).commit == new
    assert not caplog.records


def test_a_pull_by_another_program_does_not_move_a_reference(
    hub: HubServer, gguf: bytes, caches: Path, tmp_path: Path
) -> None:
    hub.publish(REPO, {"small-q8_0.gguf": gguf})
    first = resolve_model(REFERENCE, kind="generation", cache_dir=caches)
    hub.publish(REPO, {"small-q8_0.gguf": gguf[:-1] + b"?"})
    pull(REFERENCE, tmp_path / "another program")
    assert resolve_model(REFERENCE, kind="generation", cache_dir=caches) == first


def test_a_branch_that_moves_during_a_pull_mixes_no_commits(
    hub: HubServer, gguf: bytes, caches: Path
) -> None:
    hub.publish(REPO, {"small-q8_0.gguf": gguf})
    hub.after_description = lambda: hub.publish(REPO, {"small-q8_0.gguf": gguf, "new": b""})
    with pytest.raises(ModelNotFoundError, match="moved during the download"):
        pull(REFERENCE, caches)
