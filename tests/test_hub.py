"""Models from the hub, against a local server that speaks its protocol."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from asteady import ModelFormatError, ModelNotFoundError, Session, SessionClosedError
from asteady.engine import _hub, _hub_pull
from asteady.engine._hub import choose, parse_reference, resolve_hub
from asteady.engine._hub_pull import pull_model
from asteady.engine._models import resolve_model
from tests.gguf_files import parts_of, write_llama
from tests.hub_server import HubServer, serve_hub

pytest.importorskip("huggingface_hub")

REPO = "someone/small-GGUF"
REFERENCE = f"hf:{REPO}/small-q8_0.gguf"


@pytest.fixture(scope="session")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_llama(tmp_path_factory.mktemp("hub") / "model.gguf").read_bytes()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    for name in list(os.environ):
        if name.startswith(("HF_", "HUGGINGFACE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serve_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        yield hub


@pytest.fixture
def caches(tmp_path: Path) -> Path:
    return tmp_path / "caches"


def pull(reference: str, caches: Path) -> _hub.HubModel:
    return pull_model(reference, caches, show_progress=False)


def blobs(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "hf").rglob("blobs/*")]


def cli(*arguments: str, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "asteady", "models", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **more},
    )


def run(*arguments: str, **more: str) -> tuple[int | None, str, str]:
    with cli(*arguments, **more) as process:
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


# -- references ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("hf:a/b/c.gguf", ("a/b", "c.gguf", None, "main")),
        ("hf:a/b.c-d_e/Q4/f-1.gguf@v1.0", ("a/b.c-d_e", "Q4/f-1.gguf", None, "v1.0")),
        ("hf:a/b:Q4_K_M", ("a/b", None, "Q4_K_M", "main")),
        ("hf:a/b:q8_0@refs/pr/1", ("a/b", None, "q8_0", "refs/pr/1")),
    ],
)
def test_a_reference_has_a_repository_a_file_and_a_revision(
    text: str, parts: tuple[object, ...]
) -> None:
    found = parse_reference(text)
    assert (found.repo, found.file, found.quantisation, found.revision) == parts


@pytest.mark.parametrize(
    "text", ["hf:", "hf:a", "hf:a/b", "hf:a/b/c.bin", "hf:a/b:", "hf:a/../../b.gguf", "hf:a/b/ c"]
)
def test_what_is_no_reference_is_refused_with_the_way_to_write_one(text: str, caches: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"hf:owner/repo/file\.gguf"):
        resolve_model(text, kind="generation", cache_dir=caches)


NAMES = [
    "README.md",
    "m-IQ4_XS.gguf",
    "m-Q4_K.gguf",
    "m-Q4_K_M.gguf",
    "mmproj-m-Q8_0.gguf",
    "m.q8_0.gguf",
    "big/m-F16-00001-of-00002.gguf",
    "big/m-F16-00002-of-00002.gguf",
    "m-BF16-00001-of-00002.gguf",
    "two-a-Q6_K.gguf",
    "two-b-Q6_K.gguf",
]


@pytest.mark.parametrize(
    ("wanted", "files"),
    [
        (":Q4_K_M", ["m-Q4_K_M.gguf"]),
        (":q4_k", ["m-Q4_K.gguf"]),
        (":Q8_0", ["m.q8_0.gguf"]),
        (":F16", NAMES[6:8]),
        ("/m-Q4_K.gguf", ["m-Q4_K.gguf"]),
        ("/big/m-F16-00001-of-00002.gguf", NAMES[6:8]),
        ("/big/m-F16-00002-of-00002.gguf", NAMES[6:8]),
    ],
)
def test_a_quantisation_or_a_name_chooses_a_model_with_all_its_parts(
    wanted: str, files: list[str]
) -> None:
    assert choose(parse_reference(f"hf:a/b{wanted}"), NAMES) == files


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (":Q5_K_M", r"no file of quantisation Q5_K_M; its \.gguf files are: .*m-Q4_K\.gguf"),
        (":Q4_XS", "no file of quantisation Q4_XS"),
        (":Q6_K", "2 files would do.*two-a-Q6_K.gguf, two-b-Q6_K.gguf"),
        (":BF16", "does not have all the parts of m-BF16-00001-of-00002.gguf"),
        ("/none.gguf", r"has no none\.gguf; its \.gguf files are: "),
    ],
)
def test_a_choice_that_cannot_be_made_is_explained(wanted: str, message: str) -> None:
    with pytest.raises(ModelNotFoundError, match=message):
        choose(parse_reference(f"hf:a/b{wanted}"), NAMES)


def test_a_repository_with_nothing_of_use_says_so() -> None:
    with pytest.raises(ModelNotFoundError, match="files are: none"):
        choose(parse_reference("hf:a/b:Q4_0"), ["README.md"])


def test_many_names_are_cut() -> None:
    names = [f"m{number:03}.gguf" for number in range(100)]
    with pytest.raises(ModelNotFoundError, match=r"m023\.gguf and 76 more"):
        choose(parse_reference("hf:a/b/none.gguf"), names)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HF_HOME": "/x"}, "/x/hub"),
        ({"HF_HUB_CACHE": "/y", "HF_HOME": "/x"}, "/y"),
        ({"XDG_CACHE_HOME": "/z"}, "/z/huggingface/hub"),
        ({"HOME": "/h"}, "/h/.cache/huggingface/hub"),
        ({"HF_HOME": "$HOME/q", "HOME": "/h"}, "/h/q/hub"),
    ],
)
def test_the_cache_is_where_huggingface_hub_has_it(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    program = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    theirs = subprocess.check_output([sys.executable, "-c", program], text=True).strip()
    assert str(_hub.hub_cache()) == theirs == expected


# -- pulling ---------------------------------------------------------------------------------------


def test_a_model_is_pulled_once_and_then_found_without_the_hub(
    hub: HubServer, gguf: bytes, caches: Path, tmp_path: Path
) -> None:
    commit = hub.publish(REPO, {"small-q8_0.gguf": gguf, "README.md": b"hi"})
    file = resolve_model(f"hf:{REPO}:Q8_0", kind="generation", cache_dir=caches)
    assert file.path.read_bytes() == gguf
    assert file.reference == f"hf:{REPO}:Q8_0"
    assert commit in file.path.parts
    assert tmp_path / "hf" in file.path.parents
    entry = _hub.recorded(parse_reference(f"hf:{REPO}:Q8_0"), caches)
    assert entry is not None
    assert (entry.commit, entry.sha256) == (commit, (file.sha256,))
    asked = len(hub.requests)
    assert resolve_model(f"hf:{REPO}:Q8_0", kind="generation", cache_dir=caches) == file
    # Also with another cache directory, and for another way to name it.
    again = resolve_model(REFERENCE, kind="generation", cache_dir=tmp_path / "other")
    assert (again.path, again.sha256) == (file.path, file.sha256)
    pinned = resolve_model(f"{REFERENCE}@{commit}", kind="generation", cache_dir=caches)
    assert pinned.path == file.path
    assert pull(f"{REFERENCE}@{commit}", caches).commit == commit
    assert len(hub.requests) == asked


def test_what_is_here_needs_neither_the_network_nor_the_extra(
    hub: HubServer, gguf: bytes, caches: Path
) -> None:
    hub.publish(REPO, {"small-q8_0.gguf": gguf})
    pull(REFERENCE, caches)
    program = (
        "import sys; sys.modules['huggingface_hub'] = None\n"
        "from pathlib import Path\n"
        "from asteady.engine._models import resolve_model\n"
        "print(resolve_model(sys.argv[1], kind='generation', cache_dir=Path(sys.argv[2])).path)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, REFERENCE, str(caches)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
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
async def test_a_session_that_is_closed_in_mid_download_does_not_wait_for_it(
    hub: HubServer, gguf: bytes, caches: Path, tmp_path: Path
) -> None:
    hub.publish(REPO, {"small-q8_0.gguf": gguf})
    hub.held = threading.Event()
    async with Session(generation_model=REFERENCE, workers=1) as session:
        waiting = asyncio.create_task(session.generate("hello"))
        assert await anyio.to_thread.run_sync(hub.halfway.wait, 60)
        (thread,) = [t for t in threading.enumerate() if t.name == "asteady-fetch"]
        with anyio.fail_after(5):
            await session.aclose()
    with pytest.raises(SessionClosedError):
        await waiting
    # When the rest of the file comes after all, it is not taken.
    hub.held.set()
    await anyio.to_thread.run_sync(thread.join, 30)
    assert not thread.is_alive()
    assert blobs(tmp_path) == []
    assert _hub.recorded(parse_reference(REFERENCE), caches) is None


def test_an_interrupt_ends_a_program_in_mid_download(hub: HubServer, gguf: bytes) -> None:
    hub.publish(REPO, {"small-q8_0.gguf": gguf})
    hub.held = threading.Event()
    with subprocess.Popen(
        [sys.executable, "-m", "asteady", "generate", "--model", REFERENCE, "hello"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert hub.halfway.wait(60)
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=8)
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


def test_a_moved_tag_is_told_and_a_session_stays_where_it_was(
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


def test_what_another_program_pulls_moves_nothing_here(
    hub: HubServer, gguf: bytes, caches: Path, tmp_path: Path
) -> None:
    hub.publish(REPO, {"small-q8_0.gguf": gguf})
    first = resolve_model(REFERENCE, kind="generation", cache_dir=caches)
    hub.publish(REPO, {"small-q8_0.gguf": gguf[:-1] + b"?"})
    pull(REFERENCE, tmp_path / "another program")
    assert resolve_model(REFERENCE, kind="generation", cache_dir=caches) == first


def test_a_move_between_two_requests_mixes_nothing(
    hub: HubServer, gguf: bytes, caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.publish(REPO, {"small-q8_0.gguf": gguf})

    def move(reference: _hub.HubReference, names: Iterable[str]) -> list[str]:
        hub.publish(REPO, {"small-q8_0.gguf": gguf, "new": b""})
        return choose(reference, names)

    monkeypatch.setattr(_hub_pull, "choose", move)
    with pytest.raises(ModelNotFoundError, match="moved while it was pulled"):
        pull(REFERENCE, caches)


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
    with pytest.raises(ModelNotFoundError, match=r"could not be fetched.*try again"):
        pull(REFERENCE, caches)
    assert blobs(tmp_path) == []
    hub.cut_after = []
    assert pull(REFERENCE, caches).files[0].read_bytes() == gguf


def test_a_process_killed_in_mid_download_leaves_no_half_file_in_use(
    hub: HubServer, gguf: bytes, caches: Path
) -> None:
    hub.publish(REPO, {"small-q8_0.gguf": gguf})
    hub.held = threading.Event()
    with cli("pull", REFERENCE) as process:
        assert hub.halfway.wait(60)
        process.kill()
        process.communicate(timeout=30)
    hub.held.set()
    hub.held = None
    reference = parse_reference(REFERENCE)
    assert _hub.recorded(reference, caches) is None
    assert _hub.in_cache(reference) is None
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


def test_a_file_that_was_spoiled_in_the_cache_is_found_out(
    hub: HubServer, gguf: bytes, caches: Path, tmp_path: Path
) -> None:
    hub.publish(REPO, {"small-q8_0.gguf": gguf})
    file = pull(REFERENCE, caches).files[0].resolve()
    file.write_bytes(gguf[:-1] + b"?")
    # Neither what was recorded nor the name of the blob agrees, so either way it is refused.
    with pytest.raises(ModelFormatError, match="expected"):
        resolve_model(REFERENCE, kind="generation", cache_dir=tmp_path / "other")


# -- what goes wrong -------------------------------------------------------------------------------


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
    monkeypatch.setattr(_hub_pull, "find_spec", lambda _: None)


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
        (_unreachable, REFERENCE, "could not be fetched from http://127.0.0.1:9"),
        (_offline, REFERENCE, "HF_HUB_OFFLINE"),
        (_no_room, REFERENCE, r"has room for 0\.0: make room, or set HF_HOME"),
        (_no_extra, REFERENCE, r'pip install "asteady\[hub\]"'),
    ],
)
def test_what_goes_wrong_is_said_in_one_line_with_a_remedy(
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
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "there is no room" in done.stderr
    assert "Traceback" not in done.stderr
    assert blobs(tmp_path) == []


# -- the command -----------------------------------------------------------------------------------


def test_the_command_pulls_lists_shows_and_removes(
    hub: HubServer, gguf: bytes, tmp_path: Path
) -> None:
    commit = hub.publish(REPO, {"small-q8_0.gguf": gguf})
    # Without a terminal tqdm shows no bar, unless it is told so.
    code, out, err = run("pull", f"hf:{REPO}:Q8_0", TQDM_POSITION="-1")
    assert code == 0, err
    path = Path(out.strip())
    assert path.read_bytes() == gguf
    assert "small-q8_0.gguf" in err  # the progress bar
    assert "100%" in err
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
    assert "not here" in err
    code, out, err = run("path", REFERENCE, HF_HUB_OFFLINE="1")
    assert (code, out) == (1, "")


def test_removing_one_revision_leaves_what_another_shares(
    hub: HubServer, gguf: bytes, caches: Path, tmp_path: Path
) -> None:
    old = hub.publish(REPO, {"small-q8_0.gguf": gguf})
    first = pull(f"{REFERENCE}@{old}", caches)
    hub.publish(REPO, {"small-q8_0.gguf": gguf, "new": b""})
    second = pull(REFERENCE, caches)
    assert _hub.discard(first.files[0]) == 0
    assert second.files[0].read_bytes() == gguf
    assert not first.files[0].parent.exists()
    assert _hub.discard(second.files[0]) == len(gguf)
    assert blobs(tmp_path) == []


def test_removing_one_file_leaves_the_others_of_its_commit(
    hub: HubServer, gguf: bytes, caches: Path, tmp_path: Path
) -> None:
    other = gguf[:-1] + bytes([gguf[-1] ^ 1])
    hub.publish(REPO, {"a-Q4_0.gguf": gguf, "b-Q8_0.gguf": other})
    first, second = pull(f"hf:{REPO}:Q4_0", caches), pull(f"hf:{REPO}:Q8_0", caches)
    assert len(blobs(tmp_path)) == 2
    assert _hub.discard(first.files[0]) == len(gguf)
    assert len(blobs(tmp_path)) == 1
    assert second.files[0].read_bytes() == other
    assert _hub.in_cache(parse_reference(f"hf:{REPO}:Q8_0")) is not None
