"""Generation by llama.cpp on small random models: text, sampling, log-probabilities, errors."""

from __future__ import annotations

import codecs
import logging
import math
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import attrs
import llama_cpp
import pytest

from asteady._base.errors import EngineError, ModelCapabilityError, ModelFormatError
from asteady._base.requests import Completion, EmbedRequest, GenerateRequest
from asteady._engine.api import AnswerEvent, ErrorEvent
from asteady._engine.llama.engine import LlamaEngine
from asteady._engine.loader import load_engine
from asteady._engine.models.resolve import resolve_model
from asteady._engine.plan import EngineOptions
from tests.engine.conftest import load
from tests.engine.driving import digest, drain, generate, together
from tests.gguf_files import write_llama
from tests.published import smollm2_file


def test_an_answer_is_complete(gpt2: LlamaEngine) -> None:
    began = perf_counter()
    answer = generate(gpt2, "Hi", max_new_tokens=30, seed=5)
    assert 0 < answer.cost_s <= perf_counter() - began
    assert answer.text == "".join(answer.chunks)
    assert answer.finish_reason == "length"
    assert answer.prompt_tokens == len(gpt2.prepare(GenerateRequest.of("Hi")).tokens)  # type: ignore[attr-defined]
    assert answer.completion_tokens == 30
    assert answer.logprobs is None
    assert (answer.seed, answer.model) == (5, gpt2.model)
    assert answer.fingerprint == gpt2.fingerprint
    assert not answer.cached


def test_the_chunks_are_the_answers(gpt2: LlamaEngine) -> None:
    worker = gpt2.open_worker()
    slot = worker.admit(gpt2.prepare(GenerateRequest.of("Hi", max_new_tokens=100)))
    answers, chunks = drain(worker, slot)
    answer = answers[slot]
    assert isinstance(answer, Completion)
    assert tuple(chunks[slot]) == answer.chunks
    assert "" not in answer.chunks
    assert len(answer.chunks) > 50
    worker.close()


def test_greedy_is_independent_of_the_seed_and_a_temperature_is_not(gpt2: LlamaEngine) -> None:
    greedy = {generate(gpt2, "Hi", max_new_tokens=40, seed=seed).text for seed in range(3)}
    drawn = {
        generate(gpt2, "Hi", max_new_tokens=40, seed=seed, temperature=1).text for seed in range(3)
    }
    again = {
        generate(gpt2, "Hi", max_new_tokens=40, seed=seed, temperature=1).text for seed in range(3)
    }
    assert len(greedy) == 1
    assert len(drawn) == 3
    assert again == drawn


@pytest.mark.parametrize(
    "narrow", [{"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0}, {"temperature": 0.0001}]
)
def test_a_filter_that_leaves_one_token_makes_it_greedy(
    gpt2: LlamaEngine, narrow: dict[str, float]
) -> None:
    options = {"max_new_tokens": 40, "temperature": 1.5, **narrow}
    assert generate(gpt2, "Hi", **options).text == generate(gpt2, "Hi", max_new_tokens=40).text


@pytest.mark.parametrize(
    "option",
    [
        {"top_k": 3},
        {"top_p": 0.5},
        {"min_p": 0.3},
        {"typical_p": 0.3},
        {"temperature": 2.0},
        {"repeat_penalty": 1.5},
        {"presence_penalty": 3.0},
        {"frequency_penalty": 3.0},
        {"logit_bias": {101: 100}},
    ],
)
def test_every_sampling_option_has_an_effect(gpt2: LlamaEngine, option: dict[str, object]) -> None:
    base = {"max_new_tokens": 60, "temperature": 1.0}
    assert generate(gpt2, "Hi", **{**base, **option}).text != generate(gpt2, "Hi", **base).text


def test_penalties_and_biases_count_under_greedy_too(gpt2: LlamaEngine) -> None:
    ids = {
        name: [entry.token_id for entry in answer.logprobs or ()]
        for name, answer in {
            "bias": generate(gpt2, "Hi", max_new_tokens=9, logprobs=0, logit_bias={101: 100}),
            "none": generate(gpt2, "Hi", max_new_tokens=60, logprobs=0),
            "presence": generate(gpt2, "Hi", max_new_tokens=60, logprobs=0, presence_penalty=10),
        }.items()
    }
    assert ids["bias"] == [101] * 9
    assert len(set(ids["none"])) < 60
    assert len(set(ids["presence"])) == 60


def test_an_end_token_stops_and_is_not_shown(gpt2: LlamaEngine) -> None:
    end = gpt2.vocab.tokenize("<|end|>", special=True)[0]
    answer = generate(gpt2, "Hi", max_new_tokens=40, logit_bias={end: 100}, logprobs=0)
    assert (answer.text, answer.chunks, answer.finish_reason) == ("", (), "stop")
    assert (answer.completion_tokens, answer.logprobs) == (0, ())


def test_a_control_token_in_the_middle_is_not_shown(gpt2: LlamaEngine) -> None:
    control = gpt2.vocab.tokenize("<|user|>", special=True)[0]
    answer = generate(gpt2, "Hi", max_new_tokens=5, logit_bias={control: 100})
    assert (answer.text, answer.completion_tokens) == ("", 5)
    assert answer.finish_reason == "length"


def test_an_answer_ends_where_the_context_ends(models: Path) -> None:
    engine = load(models, "short.gguf")
    answer = generate(engine, "Hi", raw=True)
    assert answer.finish_reason == "length"
    assert answer.prompt_tokens + answer.completion_tokens == 64
    engine.close()


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_stop_string_ends_the_text_wherever_chunks_are_cut(
    gpt2: LlamaEngine, length: int
) -> None:
    whole = generate(gpt2, "Hi", max_new_tokens=80).text
    start = 20
    stop = whole[start : start + length]
    answer = generate(gpt2, "Hi", max_new_tokens=80, stop=[stop, "never there"])
    assert answer.text == whole[: whole.index(stop)]
    assert answer.finish_reason == "stop"
    assert "".join(answer.chunks) == answer.text


def test_a_half_character_at_the_limit_is_left_out_and_its_token_counts(gpt2: LlamaEngine) -> None:
    # Every token is the first byte of a character, so the text ends inside one.
    first_byte = gpt2.vocab.tokenize("é", special=False)[0]
    for stop in (None, "\ufffd"):
        answer = generate(gpt2, "Hi", max_new_tokens=1, logit_bias={first_byte: 100}, stop=stop)
        assert (answer.text, answer.chunks, answer.finish_reason) == ("", (), "length")
        assert answer.completion_tokens == 1


def test_a_half_character_before_the_models_end_is_shown_as_one_that_is_none(
    gpt2: LlamaEngine,
) -> None:
    first_byte = gpt2.vocab.tokenize("é", special=False)[0]
    # The penalty makes the second token the end.
    options = {"logit_bias": {first_byte: 100, gpt2.vocab.eos: 95}, "presence_penalty": 10}
    answer = generate(gpt2, "Hi", **options)
    assert (answer.text, answer.finish_reason) == ("\ufffd", "stop")
    answer = generate(gpt2, "Hi", stop="\ufffd", **options)
    assert (answer.text, answer.finish_reason) == ("", "stop")


def whole_characters(data: bytes) -> str:
    return codecs.getincrementaldecoder("utf-8")("replace").decode(data)


@pytest.mark.parametrize("text", ["😀 yes 👩‍👩‍👧", "漢字かな", "é€"])
def test_an_answer_is_cut_between_characters_at_every_limit(either: LlamaEngine, text: str) -> None:
    # One token of each byte, in order: each may be taken once more than the ones after it.
    tokens = either.vocab.tokenize(text, special=False)
    for limit in range(1, 8):
        biases = {token: 100 - 3 * at for at, token in enumerate(dict.fromkeys(tokens))}
        answer = generate(
            either,
            "Hi",
            max_new_tokens=limit,
            logit_bias=biases,
            presence_penalty=10,
            logprobs=0,
        )
        assert answer.logprobs is not None
        assert len(answer.logprobs) == answer.completion_tokens == limit
        data = b"".join(entry.token for entry in answer.logprobs)
        assert answer.text == "".join(answer.chunks) == whole_characters(data)


def test_emoji_of_a_published_model_are_cut_between_characters(tmp_path: Path) -> None:
    model = resolve_model(str(smollm2_file()), kind="generation", cache_dir=tmp_path)
    engine = load_engine(model, EngineOptions(probe=False), tmp_path)
    halves = 0
    try:
        for limit in range(1, 7):
            answer = generate(engine, "😀🎉😀🎉😀🎉", raw=True, max_new_tokens=limit, logprobs=0)
            assert answer.logprobs is not None
            data = b"".join(entry.token for entry in answer.logprobs)
            assert answer.text == whole_characters(data)
            assert "\ufffd" not in answer.text
            assert answer.completion_tokens == limit
            halves += answer.text.encode() != data
    finally:
        engine.close()
    assert halves


def test_text_is_always_valid_unicode(gpt2: LlamaEngine) -> None:
    for seed in range(5):
        answer = generate(gpt2, "Hi", max_new_tokens=100, temperature=2, seed=seed, logprobs=0)
        assert answer.logprobs is not None
        data = b"".join(entry.token for entry in answer.logprobs)
        assert answer.text == whole_characters(data)
        assert answer.text.encode()


def test_logprobs_are_of_the_whole_distribution(gpt2: LlamaEngine) -> None:
    answer = generate(gpt2, "Hi", max_new_tokens=10, logprobs=100, temperature=1, top_k=2)
    assert answer.logprobs is not None
    assert len(answer.logprobs) == answer.completion_tokens == 10
    for entry in answer.logprobs:
        assert entry.token == gpt2.vocab.piece(entry.token_id)
        assert len(entry.top) == 100
        ordered = [(-logprob, token) for token, _, logprob in entry.top]
        assert ordered == sorted(ordered)
        assert 0.5 < sum(math.exp(logprob) for _, _, logprob in entry.top) < 1.0
        # top_k=2 chose one of the two most likely.
        assert entry.logprob in [logprob for _, _, logprob in entry.top[:2]]


def test_logprobs_of_all_tokens_sum_to_one(gpt2: LlamaEngine) -> None:
    # More than `of` allows, and more than the vocabulary has.
    request = attrs.evolve(GenerateRequest.of("Hi", max_new_tokens=1), logprobs=10**6)
    (answer,) = together(gpt2, [request])
    assert isinstance(answer, Completion)
    assert answer.logprobs is not None
    (entry,) = answer.logprobs
    assert len(entry.top) == 512
    assert math.fsum(math.exp(logprob) for *_, logprob in entry.top) == pytest.approx(1, abs=1e-9)
    assert entry.top[0][0] == entry.token_id


@pytest.mark.parametrize("count", [1, 5, 16, 17])
def test_fewer_alternatives_are_the_first_of_more(gpt2: LlamaEngine, count: int) -> None:
    many = generate(gpt2, "Hi", max_new_tokens=10, logprobs=100).logprobs
    few = generate(gpt2, "Hi", max_new_tokens=10, logprobs=count).logprobs
    assert many is not None
    assert few is not None
    assert [entry.top for entry in few] == [entry.top[:count] for entry in many]


def test_logprobs_of_zero_hold_no_alternatives_and_change_no_text(gpt2: LlamaEngine) -> None:
    plain = generate(gpt2, "Hi", max_new_tokens=10)
    answer = generate(gpt2, "Hi", max_new_tokens=10, logprobs=0)
    assert answer.text == plain.text
    assert [entry.top for entry in answer.logprobs or ()] == [()] * 10


def test_an_spm_vocabulary_works_as_well(spm: LlamaEngine) -> None:
    answer = generate(spm, "Grüße 😀", max_new_tokens=50)
    assert answer.completion_tokens == 50
    assert digest(answer) == digest(generate(spm, "Grüße 😀", max_new_tokens=50))


def test_a_generation_model_cannot_embed(gpt2: LlamaEngine) -> None:
    with pytest.raises(ModelCapabilityError, match=r"cannot embed.*embedding_model"):
        gpt2.prepare(EmbedRequest.of("text"))


def test_a_closed_engine_opens_no_worker(models: Path) -> None:
    engine = load(models, "gpt2.gguf")
    assert "width=1" in repr(engine)
    engine.close()
    engine.close()
    assert "closed" in repr(engine)
    with pytest.raises(EngineError, match="closed"):
        engine.open_worker()


def test_a_worker_may_be_closed_while_it_computes(gpt2: LlamaEngine) -> None:
    worker = gpt2.open_worker()
    slot = worker.admit(gpt2.prepare(GenerateRequest.of("Hi")))
    worker.step()
    worker.close()
    worker.close()
    worker.interrupt(slot)
    assert worker.step() == []


def test_a_file_that_llama_cpp_refuses_is_an_error_with_its_reason(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "odd.gguf")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"output_norm.weight", b"output_morn.weight"))
    file = resolve_model(str(path), kind="generation", cache_dir=tmp_path)
    with pytest.raises(ModelFormatError, match=r"odd\.gguf: .*output_norm"):
        load_engine(file, EngineOptions(), tmp_path)


def test_a_model_with_an_encoder_cannot_generate(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_cpp, "llama_model_has_encoder", lambda _: True)
    with pytest.raises(ModelCapabilityError, match="decoder"):
        load(models, "gpt2.gguf")


def test_a_prompt_that_llama_cpp_fails_on_fails_alone(
    gpt2: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = generate(gpt2, "Hi", max_new_tokens=5)
    worker = gpt2.open_worker()
    with monkeypatch.context() as patch:
        patch.setattr(llama_cpp, "llama_decode", lambda *_: -1)
        slot = worker.admit(gpt2.prepare(GenerateRequest.of("Hi")))
        (event,) = worker.step()
    assert isinstance(event, ErrorEvent)
    assert event.slot == slot
    assert isinstance(event.error, EngineError)
    again = worker.admit(gpt2.prepare(GenerateRequest.of("Hi", max_new_tokens=5)))
    answers, _ = drain(worker, again)
    assert digest(answers[again]) == digest(expected)
    worker.close()


def test_a_step_that_llama_cpp_fails_on_raises(
    gpt2: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = gpt2.open_worker()
    worker.admit(gpt2.prepare(GenerateRequest.of("Hi")))
    worker.step()
    monkeypatch.setattr(llama_cpp, "llama_decode", lambda *_: 1)
    with pytest.raises(EngineError, match="code 1"):
        worker.step()
    worker.close()


def test_memory_that_llama_cpp_cannot_get_is_an_error(
    gpt2: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_cpp, "llama_init_from_model", lambda *_: None)
    worker = gpt2.open_worker()
    worker.admit(gpt2.prepare(GenerateRequest.of("Hi")))
    (event,) = worker.step()
    assert isinstance(event, ErrorEvent)
    assert "could not make a context" in str(event.error)
    worker.close()


def test_a_slot_that_is_gone_may_be_interrupted_and_released(gpt2: LlamaEngine) -> None:
    worker = gpt2.open_worker()
    slot = worker.admit(gpt2.prepare(GenerateRequest.of("Hi", max_new_tokens=1)))
    (_, event) = [event for _ in range(1) for event in worker.step()]
    assert isinstance(event, AnswerEvent)
    worker.interrupt(slot)
    worker.release(slot)
    (answer,) = together(gpt2, [GenerateRequest.of("Hi", max_new_tokens=1)])
    again = worker.admit(gpt2.prepare(GenerateRequest.of("Hi", max_new_tokens=1)))
    assert again != slot
    answers, _ = drain(worker, again)
    assert digest(answers[again]) == digest(answer)
    worker.close()


def test_llama_cpp_is_quiet_and_logs_at_debug_level(
    models: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG, "asteady"):
        engine = load(models, "gpt2.gguf")
        generate(engine, "Hi", max_new_tokens=2)
        engine.close()
    assert capfd.readouterr() == ("", "")
    lines = [record for record in caplog.records if record.message.startswith("llama.cpp: ")]
    assert len(lines) > 20
    assert {record.levelno for record in lines} == {logging.DEBUG}


def test_a_process_that_ends_without_closing_ends_well(models: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.engine.conftest import load\n"
        "from tests.engine.driving import generate\n"
        "engine = load(Path(sys.argv[1]), 'gpt2.gguf')\n"
        "generate(engine, 'Hi', max_new_tokens=3)\n"
        "worker = engine.open_worker()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(models)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
