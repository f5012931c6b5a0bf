"""The command line, as a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import asteady
from asteady._base.settings import CachePolicy
from asteady.testing import FakeEngine
from tests.cli.terminal import LATER, Terminal
from tests.gguf_files import CHAT_TEMPLATE, write_bigram
from tests.redis_server import RedisServer


def run(
    *arguments: str, stdin: str | bytes | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "asteady", *arguments],
        input=stdin.decode("latin-1") if isinstance(stdin, bytes) else stdin,
        stdin=None if stdin is not None else subprocess.DEVNULL,
        capture_output=True,
        encoding="latin-1" if isinstance(stdin, bytes) else "utf-8",
        env={**os.environ, **environment},
        timeout=120,
        check=False,
    )


def test_the_main_job_twice_the_second_time_from_the_cache() -> None:
    first = run("generate", "Write a haiku about caching", "--max-new-tokens", "20")
    second = run("generate", "Write a haiku about caching", "--max-new-tokens", "20")
    assert first.returncode == second.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    assert first.stdout.strip()
    assert first.stdout.endswith("\n")
    assert "demonstration" not in first.stderr  # a script has decided for it
    stats = json.loads(run("cache", "stats", "--json").stdout)
    assert stats["generation"]["size"] == 1
    assert stats["generation"]["all_hits"] == 1


def test_json_is_the_whole_answer() -> None:
    done = run("generate", "hi", "--max-new-tokens", "5", "--json", "--seed", "7")
    answer = json.loads(done.stdout)
    assert answer["seed"] == 7
    assert answer["completion_tokens"] <= 5
    assert "".join(answer["chunks"]) == answer["text"]
    assert answer["cached"] is False
    assert answer["reused_tokens"] == 0


def test_the_context_may_be_limited() -> None:
    refused = run("generate", "hello " * 100, "--context", "64")
    assert refused.returncode == 1
    assert "raise context_tokens (ASTEADY_CONTEXT_TOKENS)" in refused.stderr
    done = run("generate", "hi", "--context", "64", "--max-new-tokens", "2", "--json")
    assert json.loads(done.stdout)["completion_tokens"] <= 2


def test_streamed_and_whole_output_are_the_same() -> None:
    arguments = ("generate", "Tell me about caches", "--max-new-tokens", "12")
    assert run(*arguments).stdout == run(*arguments, "--no-stream").stdout


def test_an_eos_string_ends_the_text() -> None:
    arguments = ("generate", "Tell me about caches", "--max-new-tokens", "12", "--no-stream")
    whole = run(*arguments).stdout.removesuffix("\n")
    end = whole[5:8]
    told = run(*arguments, "--eos-string", end)
    assert told.stdout.removesuffix("\n") == whole[: whole.index(end)]
    assert run(*arguments, "--stop", end).stdout == told.stdout
    stats = json.loads(run("cache", "stats", "--json").stdout)
    assert stats["generation"]["size"] == 2
    assert "eos_string='' is not allowed" in run(*arguments, "--eos-string", "").stderr


def test_the_prompt_may_come_from_standard_input() -> None:
    argument = run("generate", "hi ü", "--max-new-tokens", "5")
    piped = run("generate", "--max-new-tokens", "5", stdin="hi ü\n")
    dash = run("generate", "-", "--max-new-tokens", "5", stdin="hi ü\n")
    assert argument.stdout == piped.stdout == dash.stdout
    stats = json.loads(run("cache", "stats", "--json").stdout)
    assert stats["generation"]["size"] == 1


def test_cache_only_fails_for_what_is_not_there() -> None:
    done = run("generate", "hi", "--cache", "only")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "is not in the cache" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("generate", "hi", "--model", "/no/such.gguf"), "/no/such.gguf"),
        (("generate", "hi", "--seed", "-1"), "seed=-1"),
        (("generate", "hi", "--temperature", "-1"), "temperature=-1.0"),
        (("generate", ""), "prompt=''"),
        (("generate",), "standard input is empty: give a prompt"),
        (("generate", "hi", "--top-k", "-1"), "top_k=-1"),
        (("embed", "hi", "--dimensions", "0"), "dimensions=0"),
        (("embed", "hi", "--mode", "query"), "mode='query' is not supported for the model"),
        (("embed", "hi", "--npy", "/no/such/directory/x.npy"), "/no/such/directory"),
        (("cache", "import", "x", "--max-size-mb", "0"), "--max-size-mb 0 is not allowed: it is a"),
        (("cache", "import", "x", "--max-size-mb", "inf"), "--max-size-mb inf is not allowed"),
        (("embed", "hi", "--npy", "/"), "--npy /: it is a directory; give a file in it"),
        (("warm", "no_such.jsonl"), "asteady: no_such.jsonl: No such file or directory"),
        (("generate", "hi", "--schema", "{}"), "asteady: --schema {}: No such file or directory"),
    ],
)
def test_an_expected_failure_is_one_line_and_exit_code_1(
    arguments: tuple[str, ...], message: str
) -> None:
    done = run(*arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1


def test_bad_settings_are_an_expected_failure() -> None:
    done = run("generate", "hi", ASTEADY_WORKERS="many")
    assert done.returncode == 1
    assert "ASTEADY_WORKERS" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_logged_begins_as_other_lines_of_standard_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run("generate", "hi", ASTEADY_CACHE_DIR=str(tmp_path / "file" / "caches"))
    assert (done.returncode, len(done.stderr.splitlines())) == (0, 2)
    for line in done.stderr.splitlines():
        assert re.match("asteady: the opening of the (generation|embedding) cache failed: ", line)


def test_wrong_usage_is_exit_code_2() -> None:
    assert run("generate", "hi", "--no-such-option").returncode == 2
    words = run("generate", "Write", "a", "haiku")
    assert words.returncode == 2
    assert "unrecognized arguments: a haiku (a text of several words needs quotes)" in words.stderr


def test_standard_input_must_be_text() -> None:
    done = run("generate", stdin=b"\xff\xfe")
    assert done.returncode == 1
    assert "not valid UTF-8" in done.stderr


def test_embed_prints_a_line_of_numbers_for_each_text(tmp_path: Path) -> None:
    done = run("embed", "one", "two")
    rows = [[float(x) for x in line.split()] for line in done.stdout.splitlines()]
    assert len(rows) == 2
    assert np.linalg.norm(rows[0]) == pytest.approx(1, abs=1e-5)
    assert json.loads(run("embed", "one", "two", "--json").stdout) == pytest.approx(np.array(rows))
    file = tmp_path / "vectors.npy"
    saved = run("embed", "--npy", str(file), stdin="one\ntwo\n")
    assert saved.stdout == ""
    assert np.load(file) == pytest.approx(np.array(rows))
    (shorter,) = run("embed", "one", "--dimensions", "8").stdout.splitlines()
    numbers = np.array([float(x) for x in shorter.split()])
    first = np.array(rows[0][:8])
    assert numbers == pytest.approx(first / np.linalg.norm(first), abs=1e-5)


def test_every_way_to_sample_reaches_the_request() -> None:
    given = ("--top-k", "5", "--top-p", "0.9", "--min-p", "0.1", "--repeat-penalty", "1.2")
    done = run("generate", "hi", "--max-new-tokens", "3", "--temperature", "0.5", *given)
    assert done.returncode == 0, done.stderr
    (entry,) = json.loads(run("cache", "list", "--json").stdout)

    async def stored() -> object:
        async with asteady.Session() as session:
            return await session.cache.generation.request(entry["key"])

    request = asyncio.run(stored())
    assert isinstance(request, asteady.GenerateRequest)
    assert (request.top_k, request.top_p, request.min_p, request.repeat_penalty) == (
        *(5, 0.9),
        *(0.1, 1.2),
    )


def test_the_cache_is_shown_and_cleared(tmp_path: Path) -> None:
    run("generate", "hi", "--max-new-tokens", "2")
    shown = run("cache", "stats").stdout
    assert "generation" in shown
    assert "hit rate" in shown
    assert run("cache", "clear").stdout == "removed 1 entry\n"
    assert run("cache", "clear").stdout == "removed 0 entries\n"
    assert run("cache", "path").stdout.strip() == os.environ["ASTEADY_CACHE_DIR"]


def test_looking_at_a_larger_cache_evicts_nothing(tmp_path: Path) -> None:
    async def use(capacity: int, policy: CachePolicy) -> None:
        async with asteady.Session(
            engine=FakeEngine(), generation_cache_capacity=capacity, cache_policy=policy
        ) as session:
            for number in range(5):
                await session.generate(f"prompt {number}")

    asyncio.run(use(7, "lru"))
    smaller = {"ASTEADY_GENERATION_CACHE_CAPACITY": "2"}
    for command in (
        ("cache", "list"),
        ("cache", "namespaces"),
        ("cache", "clear", "--namespace", "none"),
        ("cache", "export", str(tmp_path / "export")),
        ("verify", "--cache"),
    ):
        assert run(*command, **smaller).returncode == 0
    told = json.loads(run("cache", "stats", "--json", **smaller).stdout)["generation"]
    assert (told["size"], told["capacity"], told["policy"]) == (5, 7, "lru")
    # What fills it holds the sizes that are set.
    assert run("cache", "import", str(tmp_path / "export"), **smaller).returncode == 0
    told = json.loads(run("cache", "stats", "--json").stdout)["generation"]
    assert (told["size"], told["capacity"], told["policy"]) == (2, 2, "tide")


def test_version() -> None:
    assert run("--version").stdout == f"asteady {asteady.__version__}\n"


def test_a_reader_that_has_enough_is_no_failure_to_shout_about() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "asteady", "generate", "hi", "--max-new-tokens", "50"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()


def test_an_interrupt_stops_at_once_with_exit_code_130() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "asteady", "generate", "--raw", "a b c", "--temperature", "5"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        try:
            _, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
        # Or it has printed the answer already, or Python is ending.
        assert process.returncode in (130, 0, -signal.SIGINT), stderr
    assert b"Traceback" not in stderr


# In a callback Python prints an exception, and goes on.
INTERRUPTED_WHILE_IT_IMPORTS = """
import os, signal, sys

class Callback:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == MODULE:
            Callback() if CALLBACK else os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Finder())
sys.argv = ["asteady", *COMMAND.split()]
from asteady.cli import main
sys.exit(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
@pytest.mark.parametrize(
    ("command", "module"),
    [
        ("--version", "asteady.cli._main"),
        ("--version", "argparse"),
        ("--version", "attrs"),
        ("--version", "asteady._base.errors"),
        ("--version", "asteady.cli._verify"),
        ("models list", "asteady._engine.loader"),
        ("cache size", "asteady.operate._sizing"),
        ("cache list", "asteady._cache.manager"),
        ("generate hi", "asteady._session.session"),
        ("generate hi", "llama_cpp"),
    ],
)
@pytest.mark.parametrize("callback", [False, True])
def test_an_interrupt_while_it_imports_says_so_in_one_line(
    command: str, module: str, callback: bool
) -> None:
    program = INTERRUPTED_WHILE_IT_IMPORTS
    for name, value in (("MODULE", module), ("COMMAND", command), ("CALLBACK", callback)):
        program = program.replace(name, repr(value))
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr == "asteady: interrupted\n"
    assert done.stdout == ""


def test_entries_are_listed_shown_and_removed_by_key() -> None:
    text = run("generate", "hi", "--max-new-tokens", "4").stdout
    run("embed", "hi")
    rows = json.loads(run("cache", "list", "--json").stdout)
    assert [row["cache"] for row in rows] == ["generation", "embedding"]
    assert [row["prompt"] for row in rows] == ["hi", "hi"]
    listed = run("cache", "list", "--order-by", "cost").stdout
    assert rows[0]["key"][:16] in listed
    assert listed.splitlines()[1].endswith(" 'hi'")
    got = run("cache", "get", rows[0]["key"][:10])
    assert (got.stdout, got.stderr) == (text, "asteady: the answer to 'hi'\n")
    assert len(run("cache", "get", rows[1]["key"]).stdout.split()) > 100
    assert "2 entries have keys that begin with ''" in run("cache", "get", "").stderr
    assert run("cache", "delete", rows[0]["key"]).stdout == f"removed {rows[0]['key']}\n"
    gone = run("cache", "get", rows[0]["key"])
    assert gone.returncode == 1
    assert "no entry has a key that begins with" in gone.stderr


def test_statistics_tell_what_was_saved() -> None:
    for _ in range(2):
        run("generate", "hi", "--max-new-tokens", "4")
    shown = run("cache", "stats").stdout
    assert "50.0%" in shown
    assert re.search(r"the caches have saved \d+\.\d", shown)


def test_reasoning_is_on_standard_error_and_in_json(tmp_path: Path) -> None:
    model = str(
        write_bigram(
            tmp_path / "thinks.gguf",
            ["\n", "<think>", "I", " see", "</think>", "Hel", "lo"],
            template="{# <think></think> #}" + CHAT_TEMPLATE,
        )
    )
    usual = run("generate", "hi", "--model", model)
    assert (usual.stdout, usual.stderr) == ("Hello\n", "")
    shown = run("generate", "hi", "--model", model, "--reasoning")
    assert (shown.stdout, shown.stderr) == ("Hello\n", "I see\n\n")
    whole = run("generate", "hi", "--model", model, "--reasoning", "--no-stream")
    assert (whole.stdout, whole.stderr) == ("Hello\n", "I see\n\n")
    answer = json.loads(run("generate", "hi", "--model", model, "--json").stdout)
    assert (answer["text"], answer["reasoning"], answer["cached"]) == ("Hello", "I see", True)
    (row,) = json.loads(run("cache", "list", "--json").stdout)
    got = run("cache", "get", row["key"])
    assert (got.stdout, got.stderr.splitlines()[1]) == ("Hello\n", "asteady: its reasoning: I see")


def test_reasoning_is_dimmed_on_a_terminal(tmp_path: Path) -> None:
    model = write_bigram(
        tmp_path / "thinks.gguf",
        ["\n", "<think>", "I", " see", "</think>", "Hello"],
        template="{# <think></think> #}" + CHAT_TEMPLATE,
    )

    def shown(*more: str) -> str:
        terminal = Terminal(LATER, "generate", "hi", "--model", str(model), *more)
        assert terminal.finish() == (0, "Hello\n")
        return terminal.said

    assert "\x1b[2mI see\x1b[0m\r\n\r\n" in shown()
    assert "see" not in shown("--no-reasoning")


def test_a_closed_standard_output_is_one_line() -> None:
    done = subprocess.run(
        f"{sys.executable} -m asteady generate hi >&-",
        shell=True,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "asteady: standard output is closed\n"


@pytest.mark.parametrize(
    ("command", "code", "what"),
    [
        ("generate", 1, "a prompt"),
        ("generate --messages -", 1, "messages"),
        ("embed", 1, "at least one text"),
        ("tokens", 1, "a prompt"),
        ("tokens --detokenize", 1, "the ids of tokens"),
        ("warm -", 1, "a file of prompts"),
        ("fingerprint --compare -", 2, "the other fingerprint"),
    ],
)
def test_a_closed_standard_input_is_one_line(command: str, code: int, what: str) -> None:
    done = subprocess.run(
        f"{sys.executable} -m asteady {command} <&-",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr == f"asteady: give {what} as an argument, or pipe it to standard input\n"


def test_the_probe_is_shown_as_a_table_and_remembered() -> None:
    shown = run("models", "probe").stdout.splitlines()
    assert shown[0].split()[:3] == ["width", "same", "bits"]
    assert shown[1].split()[:2] == ["1", "yes"]
    assert shown[-1].startswith("builtin: width ")
    again = json.loads(run("models", "probe", "builtin", "--json").stdout)
    assert f"width {again['width']}, {again['weights']} weights" in shown[-1]
    skipped = run("models", "probe", ASTEADY_PROBE="0").stdout
    assert skipped.startswith(f"builtin: width 1, {again['weights']} weights: the probe is ")
    refused = run("models", "probe", "no.gguf")
    assert refused.returncode == 1
    assert "no.gguf" in refused.stderr


def test_calls_of_tools_are_lines_of_json(tmp_path: Path) -> None:
    tool = {"name": "go", "parameters": {"properties": {"x": {"enum": [1]}}, "required": ["x"]}}
    file = tmp_path / "tools.json"
    file.write_text(json.dumps([tool]))
    arguments = ("hi", "--tools", str(file), "--tool-choice", "go", "--quiet")
    answer = json.loads(run("generate", *arguments).stdout)
    assert (answer["name"], answer["arguments"], len(answer["id"])) == ("go", {"x": 1}, 9)
    whole = json.loads(run("generate", *arguments, "--json").stdout)
    assert whole["tool_calls"] == [
        {"name": "go", "arguments_json": '{"x": 1}', "id": answer["id"]},
    ]


@pytest.mark.parametrize("there", [True, False])
def test_the_statistics_have_a_line_about_the_shared_cache(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    monkeypatch.setenv("ASTEADY_SHARED_CACHE", redis_server.url)
    monkeypatch.setenv("ASTEADY_SHARED_CACHE_TIMEOUT_S", "60")
    if not there:
        redis_server.kill()
    shown = run("cache", "stats").stdout
    found = json.loads(run("cache", "stats", "--json").stdout)["shared"]
    if there:
        assert re.search(r"shared cache: 0 keys in \d+ MB, 0 evictions \(noeviction, ", shown)
        assert found["keys"] == 0
    else:
        assert f"the shared cache {redis_server.url} failed to answer" in shown
        assert "Connection refused" in found["error"] or "Connect call failed" in found["error"]
