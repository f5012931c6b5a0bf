"""Failed downloads: the message has a remedy, and no incomplete file is used."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from asteady import ModelFormatError, ModelNotFoundError
from asteady._engine.models.hub import in_cache, parse_reference, recorded, resolve_hub
from asteady._engine.models.resolve import resolve_model
from tests.engine.hub.helpers import REFERENCE, REPO, blobs, cli, pull
from tests.engine.hub.server import HubServer

pytest.importorskip("huggingface_hub")


def test_a_broken_connection_is_resumed_where_it_broke(
    hub: HubServer, gguf: bytes, caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    hub.publish(REPO, {"small-q8_0.gguf": gguf})
    hub.cut_after = [1500, 70_000]
    assert pull(REFERENCE, caches).files[0].read_bytes() == gguf
    assert hub.ranges == [None, "bytes=1000-", "bytes=71000-"]


def test_a_download_that_keeps_breaking_leaves_nothing(
    hub: HubServer, gguf: bytes, caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    hub.publish(REPO, {"small-q8_0.gguf": gguf})
    hub.cut_after = [0] * 20
    with pytest.raises(ModelNotFoundError, match=r"download from .* failed.*try again"):
        pull(REFERENCE, caches)
    assert blobs(tmp_path) == []
    hub.cut_after = []
    assert pull(REFERENCE, caches).files[0].read_bytes() == gguf


def test_a_process_killed_during_a_download_leaves_no_partial_file_in_use(
    hub: HubServer, gguf: bytes, caches: Path
) -> None:
    hub.publish(REPO, {"small-q8_0.gguf": gguf})
    hub.held = threading.Event()
    with cli("pull", REFERENCE) as process:
        assert hub.halfway.wait(120)
        process.kill()
        process.communicate(timeout=120)
    hub.held.set()
    hub.held = None
    reference = parse_reference(REFERENCE)
    assert recorded(reference, caches) is None
    assert in_cache(reference) is None
    assert resolve_model(REFERENCE, kind="generation", cache_dir=caches).path.read_bytes() == gguf


def test_a_wrong_checksum_is_refused_and_the_file_removed(
    hub: HubServer, gguf: bytes, caches: Path, tmp_path: Path
) -> None:
    hub.publish(REPO, {"small-q8_0.gguf": gguf})
    hub.spoiled = {"small-q8_0.gguf"}
    with pytest.raises(ModelFormatError, match=r"sha256.*expected.*models pull"):
        resolve_model(REFERENCE, kind="generation", cache_dir=caches)
    assert blobs(tmp_path) == []
    hub.spoiled = set()
    assert resolve_model(REFERENCE, kind="generation", cache_dir=caches).path.read_bytes() == gguf


def test_a_file_corrupted_in_the_cache_is_refused(
    hub: HubServer, gguf: bytes, caches: Path, tmp_path: Path
) -> None:
    hub.publish(REPO, {"small-q8_0.gguf": gguf})
    file = pull(REFERENCE, caches).files[0].resolve()
    file.write_bytes(gguf[:-1] + b"?")
    # Another cache directory has no record, so the blob's name is what the digest is compared with.
    with pytest.raises(ModelFormatError, match="expected"):
        resolve_model(REFERENCE, kind="generation", cache_dir=tmp_path / "other")


def _private(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.private.add(REPO)


def _wrong_token(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")


def _gated(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.gated.add(REPO)


def _down(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.status = 500


def _unreachable(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


def _offline(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def _no_room(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage())


class Usage:
    free = 1000


def _no_extra(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)


@pytest.mark.parametrize(
    ("spoil", "reference", "message"),
    [
        (None, "hf:no/such/file.gguf", "has no model no/such.*HF_TOKEN"),
        (None, f"hf:{REPO}/other.gguf", r"has no other\.gguf; .*small-q8_0\.gguf"),
        (None, f"{REFERENCE}@v9", "no revision 'v9'"),
        (_private, REFERENCE, "private.*HF_TOKEN"),
        (_wrong_token, REFERENCE, r"refuses access \(401\).*HF_TOKEN"),
        (_gated, REFERENCE, r"is gated: accept its terms.*HF_TOKEN"),
        (_down, REFERENCE, "answered 500"),
        (_unreachable, REFERENCE, "download from http://127.0.0.1:9 failed"),
        (_offline, REFERENCE, "HF_HUB_OFFLINE"),
        (_no_room, REFERENCE, r"has 0\.0 MB free: free some space, or set HF_HOME"),
        (_no_extra, REFERENCE, r'pip install "asteady\[hub\]"'),
    ],
)
def test_a_failure_is_explained_in_one_line_with_a_remedy(
    spoil: Callable[[HubServer, pytest.MonkeyPatch], None] | None,
    reference: str,
    message: str,
    hub: HubServer,
    gguf: bytes,
    caches: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hub.publish(REPO, {"small-q8_0.gguf": gguf})
    if spoil is not None:
        spoil(hub, monkeypatch)
    with pytest.raises(ModelNotFoundError, match=message) as caught:
        resolve_hub(reference, caches)
    assert "\n" not in str(caught.value)
    assert reference in str(caught.value)
    assert blobs(tmp_path) == []


def test_a_token_opens_a_private_repository(
    hub: HubServer, gguf: bytes, caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.publish(REPO, {"small-q8_0.gguf": gguf})
    hub.private.add(REPO)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert pull(REFERENCE, caches).files[0].read_bytes() == gguf


def test_a_disk_that_fills_up_is_named_and_nothing_is_left(
    hub: HubServer, gguf: bytes, tmp_path: Path
) -> None:
    hub.publish(REPO, {"small-q8_0.gguf": gguf})
    # No file may grow beyond half of the model: what a full disk does, without one.
    program = (
        "import resource, sys\n"
        "from asteady.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), -1))\n"
        "code = main(['models', 'pull', sys.argv[2]])\n"
        # What measures coverage writes a file of its own at exit.
        "resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))\n"
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(len(gguf) // 2), REFERENCE],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "is full" in done.stderr
    assert "Traceback" not in done.stderr
    assert blobs(tmp_path) == []
