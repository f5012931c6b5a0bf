"""What a fingerprint is made of, and why two differ, for records, sessions and the command."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import attrs
import pytest

import asteady.blocking
from asteady import InvalidRequestError, Session
from asteady._engine.fingerprint import FingerprintParts
from asteady.cli import main
from asteady.operate import FingerprintComparison, ModelFingerprint, fingerprint
from asteady.testing import FakeEngine

HERE = FingerprintParts(
    model="0" * 64,
    libraries="1" * 64,
    version="0.3.36 0.5.0",
    system="CPU : SSE3 = 1 | AVX2 = 1 | AVX512 = 1 | LLAMAFILE = 1 | AMX_INT8 = 0 | ",
    context_tokens=2048,
    repack=True,
    piece_tokens=64,
)


def named(parts: FingerprintParts) -> ModelFingerprint:
    return ModelFingerprint(
        asteady="1.0",
        kind="generation",
        model="smollm2",
        fingerprint=parts.digest,
        portable_fingerprint=parts.portable_digest,
        parts={**attrs.asdict(parts), "files": list(parts.files)},
    )


def compared(**there: Any) -> FingerprintComparison:
    return FingerprintComparison.of(named(HERE), named(attrs.evolve(HERE, **there)))


def texts(found: FingerprintComparison) -> dict[str, str]:
    return {each.part: each.text for each in found.differences}


def test_equal_fingerprints_share() -> None:
    found = compared()
    assert found.same
    assert found.same_any_cpu
    assert found.differences == ()
    assert "each machine finds the answers of the other" in str(found)


def test_another_cpu_shares_with_shared_cache_any_cpu_only() -> None:
    system = HERE.system.replace("AVX512 = 1", "AVX512 = 0").replace("AMX_INT8 = 0", "AMX_INT8 = 1")
    found = compared(system=system, libraries="2" * 64, repack=False)
    assert not found.same
    assert found.same_any_cpu
    assert all(each.any_cpu for each in found.differences)
    why = texts(found)
    assert why.keys() == {"libraries", "system", "repack"}
    assert why["libraries"].startswith("It follows from the CPU features")
    assert why["repack"] == "It follows from the CPU features."
    assert "equal bytes are not promised" in why["system"]
    assert "ASTEADY_SHARED_CACHE_ANY_CPU=1" in why["system"]
    shown = str(found)
    assert "here:  AVX512\n    there: AMX_INT8\n" in shown
    assert shown.endswith("unless both set shared_cache_any_cpu.")


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ({"model": "9" * 64}, {"model": "Copy the file"}),
        (
            {"model": "9" * 64, "context_tokens": 512, "thinking": True, "repack": False},
            {
                "model": "Copy the file",
                "context_tokens": "follows from the model file",
                "thinking": "follows from the model file",
                "repack": "follows from the model file",
            },
        ),
        (
            {"version": "0.3.40 0.6.0", "libraries": "2" * 64},
            {
                "version": '"llama-cpp-python==0.3.36"',
                "libraries": "follows from the version of llama.cpp",
            },
        ),
        ({"context_tokens": 512}, {"context_tokens": "ASTEADY_CONTEXT_TOKENS"}),
        (
            {"gpu_layers": 9, "piece_tokens": 512, "repack": False},
            {
                "gpu_layers": "ASTEADY_GPU_LAYERS",
                "piece_tokens": "follows from the layers on a GPU",
                "repack": "follows from the layers on a GPU",
            },
        ),
        ({"ways": 9}, {"ways": "in its version 2.0 there than in 1.0 here"}),
        ({"flash_attention": True}, {"flash_attention": "in its version 2.0 there"}),
    ],
)
def test_what_shared_cache_any_cpu_does_not_share(
    there: dict[str, Any], expected: dict[str, str]
) -> None:
    other = attrs.evolve(named(attrs.evolve(HERE, **there)), asteady="2.0")
    found = FingerprintComparison.of(named(HERE), other)
    assert not found.same_any_cpu
    why = texts(found)
    assert why.keys() == expected.keys()
    for part, text in expected.items():
        assert text in why[part]
    assert str(found).endswith("with or without shared_cache_any_cpu.")


def test_libraries_that_were_compiled_twice_come_with_a_remedy() -> None:
    found = compared(libraries="2" * 64)
    assert found.same_any_cpu
    (text,) = texts(found).values()
    assert "pip wheel" in text
    assert "CMAKE_ARGS" not in text


def test_parts_of_another_version_are_compared_too() -> None:
    other = named(HERE)
    other = attrs.evolve(other, fingerprint="f" * 64, parts={**other.parts, "new": 1, "ways": 5})
    found = FingerprintComparison.of(named(HERE), other)
    assert [each.part for each in found.differences] == ["ways", "new"]
    assert "here:  -\n    there: 1\n" in str(found)


SERVED = {
    "server": "vllm",
    "served_model": "qwen",
    "revision": None,
    "reported": {"system_fingerprint": "a", "model": "qwen"},
}


@pytest.mark.parametrize(
    ("part", "value", "expected"),
    [
        ("server", "llama-server", "by the same one"),
        ("served_model", "other", "#name."),
        ("revision", "2", "#name@revision."),
        ("reported", {"system_fingerprint": "b"}, "?fingerprint=ignore"),
    ],
)
def test_servers_are_compared_too(part: str, value: object, expected: str) -> None:
    here = attrs.evolve(named(HERE), parts=SERVED)
    there = attrs.evolve(here, parts={**SERVED, part: value}, fingerprint="f" * 64)
    found = FingerprintComparison.of(here, there)
    assert expected in texts(found)[part]
    assert "here:  " in str(found)
    assert "reported          system_fingerprint=a, model=qwen" in str(here).splitlines()
    assert "revision          -" in str(here).splitlines()


def test_a_machine_that_asks_a_server_has_no_parts_of_the_one_that_computes() -> None:
    there = attrs.evolve(named(HERE), parts=SERVED, fingerprint="f" * 64)
    found = FingerprintComparison.of(named(HERE), there)
    assert found.differences == ()
    assert str(found).endswith("compare on its machine.")


def test_a_difference_that_no_part_explains_names_the_versions() -> None:
    other = attrs.evolve(named(HERE), fingerprint="f" * 64, asteady="2.0")
    assert "of asteady 1.0 and 2.0" in str(FingerprintComparison.of(named(HERE), other))


def test_a_model_of_the_other_kind_is_not_compared() -> None:
    with pytest.raises(InvalidRequestError, match="kind generation, and the one there embedding"):
        FingerprintComparison.of(named(HERE), attrs.evolve(named(HERE), kind="embedding"))


def test_a_record_goes_through_json_and_back() -> None:
    record = named(attrs.evolve(HERE, files=("a", "b")))
    assert ModelFingerprint.from_json(json.dumps(record.as_dict())) == record


RECORD = named(HERE).as_dict()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "5",
        "[" * 100_000,
        json.dumps({**RECORD, "kind": "image"}),
        json.dumps({**RECORD, "model": 5}),
        json.dumps({**RECORD, "parts": 5}),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="is not what `asteady fingerprint --json` print"):
        ModelFingerprint.from_json(text)


@pytest.mark.anyio
async def test_the_fingerprint_of_a_session_is_that_of_its_answers() -> None:
    async with Session() as session:
        found = await fingerprint(session)
        answer = await session.complete("hi", max_new_tokens=1)
        embedding = await fingerprint(session, kind="embedding")
        with pytest.raises(InvalidRequestError, match="kind='image' is not allowed: one of"):
            await fingerprint(session, kind="image")  # type: ignore[arg-type]  # on purpose
    assert answer.fingerprint == found.fingerprint != embedding.fingerprint
    parts = dict(found.parts)
    assert FingerprintParts(**parts).digest == found.fingerprint
    assert FingerprintParts(**parts).portable_digest == found.portable_fingerprint
    for line in ("kind              generation", "context           2,048 tokens"):
        assert line in str(found).splitlines()


@pytest.mark.anyio
async def test_an_engine_that_names_no_parts_has_a_fingerprint_all_the_same() -> None:
    async with Session(engine=FakeEngine(fingerprint="f")) as session:
        found = await fingerprint(session)
    assert (found.fingerprint, found.portable_fingerprint, found.parts) == ("f", "f", {})


def test_without_await() -> None:
    with asteady.blocking.Session(engine=FakeEngine(fingerprint="f")) as session:
        assert asteady.blocking.fingerprint(session).fingerprint == "f"


def test_the_command_compares_with_what_it_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fingerprint", "--kind", "embedding", "--json"]) == 0
    printed = capsys.readouterr().out
    other = tmp_path / "other.json"
    other.write_text(printed)
    # The kind is that of the file.
    assert main(["fingerprint", "--compare", str(other)]) == 0
    assert "each machine finds the answers of the other" in capsys.readouterr().out
    record = json.loads(printed)
    record["fingerprint"], record["parts"]["context_tokens"] = "f" * 64, 77
    other.write_text(json.dumps(record))
    assert main(["fingerprint", "--compare", str(other), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["same"], found["same_any_cpu"]) == (False, True)
    (difference,) = found["differences"]
    assert (difference["part"], difference["here"], difference["there"]) == (
        *("context_tokens", 512, 77),
    )


def test_the_command_reads_the_other_side_from_a_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["fingerprint", "--json"]) == 0
    printed = capsys.readouterr().out.encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(printed)))
    assert main(["fingerprint", "--compare", "-"]) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "other.json: No such file or directory"),
        (b"\xff", "is not valid UTF-8"),
        (b"not JSON", "is not what `asteady fingerprint --json` prints"),
    ],
)
def test_a_file_that_cannot_be_compared_is_no_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, message: str
) -> None:
    other = tmp_path / "other.json"
    if content is not None:
        other.write_bytes(content)
    assert main(["fingerprint", "--compare", str(other)]) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert message in shown.err


def test_a_defect_is_no_difference(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*arguments: object, **more: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("asteady.operate._fingerprint.fingerprint", broken)
    assert main(["fingerprint"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "ZeroDivisionError"


def test_the_command_finds_the_kind_of_a_model_file(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(Path(asteady.__file__).parent / "models" / "embed.gguf")
    assert main(["fingerprint", "--model", path]) == 0
    assert "kind              embedding" in capsys.readouterr().out
    assert main(["fingerprint", "--model", path, "--kind", "generation"]) == 2
    assert "is an embedding model" in capsys.readouterr().err
