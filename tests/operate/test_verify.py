"""`verify`: no difference on the real model, and each kind of difference found on a fake one."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from asteady import (
    Completion,
    EngineError,
    InvalidRequestError,
    ModelNotFoundError,
    PoolStatistics,
    PromptTooLongError,
    Session,
    Settings,
)
from asteady._base.requests import DeclaredPrefix, GenerateRequest
from asteady._engine.api import Job, PrefixStatistics, SlotId
from asteady._engine.prefix_cache import PrefixCache
from asteady.cli import main
from asteady.operate import (
    VerifyPlan,
    VerifyReport,
    VerifyRequest,
    VerifyStep,
    _verify,
    verify,
)
from asteady.operate._verify import (
    _answer_in_process,
    _planned,
    _requests_for,
    _Way,
    report_as_record,
)
from asteady.testing import FakeEngine
from asteady.testing._fake import FakeJob, FakeWorker
from tests.cache.helpers import completion

pytestmark = pytest.mark.anyio


async def test_five_hundred_answers_of_the_built_in_model_are_the_same() -> None:
    steps: list[VerifyStep] = []
    async with Session(workers=2) as session:
        report = await verify(session, requests=8, max_new_tokens=6, progress=steps.append)
        assert (await session.cache.get_cache_stats())["generation"]["size"] == 0
        assert session.statistics().prefixes["generation:builtin"].reused >= 1
    assert report.difference is None
    assert report.ok
    assert report.comparisons >= 500
    assert report.reused >= 100
    assert all(step.reused for step in report.steps if step.name.endswith("at once"))
    assert report.steps == tuple(steps)
    assert {"alone, shuffled", "with prefixes declared", "in a second process"} < {
        step.name for step in steps
    }
    assert (report.model, report.kind, report.requests, report.skipped) == (
        "builtin",
        "generation",
        8,
        0,
    )
    assert len(report.fingerprint) == 64


async def _nothing() -> None: ...


@pytest.mark.parametrize(
    ("budget_s", "names", "seconds"),
    [(math.inf, "abc", 35), (45, "abc", 35), (44, "bc", 15), (20, "c", 10), (1, "c", 10)],
)
async def test_the_steps_that_matter_most_are_done_in_the_time_that_there_is(
    budget_s: float, names: str, seconds: float
) -> None:
    ways = [
        _Way("a", 2, 9, _nothing),
        _Way("b", 0.5, 1, _nothing),
        _Way("c", 1, 0, _nothing),
    ]
    chosen, plan = _planned(ways, 10.0, budget_s, answered=4, wanted=8)
    assert "".join(way.name for way in chosen) == names
    assert plan == VerifyPlan(
        requests=4, steps=len(names), seconds=seconds, all_requests=8, all_steps=3, all_seconds=90
    )
    assert not plan.complete


async def test_a_limit_of_time_leaves_out_requests_and_steps_and_says_so() -> None:
    plans: list[VerifyPlan] = []
    async with Session(engine=FakeEngine(), workers=2) as session:
        report = await verify(
            session, requests=24, budget_s=1e-9, second_process=False, planned=plans.append
        )
        assert (report.requests, len(report.steps)) == (4, 1)
        assert plans == [report.plan]
        assert (report.plan.requests, report.plan.all_requests) == (4, 24)
        assert not report.complete
        assert report.plan.all_steps > 5
        whole = await verify(session, requests=2, second_process=False)
        assert whole.plan.complete
        assert whole.complete
        assert len(whole.steps) == whole.plan.all_steps == report.plan.all_steps
        with pytest.raises(InvalidRequestError, match="budget_s=0 is not allowed"):
            await verify(session, budget_s=0)


class Clock:
    """Stands in for the time of `verify`: what takes time says how much."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        monkeypatch.setattr(_verify, "perf_counter", lambda: self.now_s)

    def engine(self, each_s: float, each_token_s: float) -> FakeEngine:
        def answer(request: GenerateRequest) -> str:
            self.now_s += each_s + each_token_s * request.max_new_tokens
            return "word " * 100

        return FakeEngine(answer)


async def test_on_a_slow_model_answers_are_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Clock(monkeypatch).engine(each_s=1.0, each_token_s=1.0)
    async with Session(engine=engine, workers=1) as session:
        report = await verify(session, budget_s=60, second_process=False)
    computed = [request for request in engine.computed if isinstance(request, GenerateRequest)]
    assert [request.max_new_tokens for request in computed][:5] == [24, 4, 4, 4, 4]
    plan = report.plan
    assert (plan.requests, plan.most_new_tokens) == (4, 4)
    assert not plan.complete
    # The first answer of 24 tokens, four of 4 tokens, and the steps.
    assert 25 + 4 * 5 + plan.seconds <= 60
    assert report.steps
    async with Session(engine=engine, workers=1) as session:
        whole = await verify(session, second_process=False)
    assert whole.plan.all_seconds == pytest.approx(plan.all_seconds)


async def test_a_step_with_more_at_once_than_requests_takes_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = Clock(monkeypatch).engine(each_s=1.0, each_token_s=0.0)
    async with Session(engine=engine, workers=16) as session:
        report = await verify(session, budget_s=8, second_process=False)
    assert [step.name for step in report.steps] == ["2 at once"]


async def test_when_the_time_is_up_no_other_step_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)

    def progress(step: VerifyStep) -> None:
        clock.now_s += 100

    async with Session(engine=clock.engine(0.0, 0.0), workers=1) as session:
        report = await verify(session, budget_s=60, second_process=False, progress=progress)
    # The one that matters most: with one worker, another order.
    assert [step.name for step in report.steps] == ["alone, shuffled"]
    assert (report.plan.complete, report.complete) == (True, False)
    assert json.loads(json.dumps(report_as_record(report)))["complete"] is False


@pytest.mark.parametrize("workers", [1, 2, 4])
async def test_what_there_is_time_for_begins_with_all_workers(workers: int) -> None:
    async with Session(engine=FakeEngine(), workers=workers) as session:
        report = await verify(session, requests=4, budget_s=1e-9, second_process=False)
        assert [step.name for step in report.steps] == [
            "alone, shuffled" if workers == 1 else f"{workers} at once"
        ]


async def test_answers_alone_are_computed_whole_and_those_in_company_reuse_prompts() -> None:
    beginning = "Once upon a time there was a cache. " * 30
    prompts = [beginning + end for end in ("It", "It forgot", "A queue")]
    requests: list[VerifyRequest] = [{"prompt": prompt, "raw": True} for prompt in prompts]
    reused: list[int] = []

    def progress(step: VerifyStep) -> None:
        reused.append(pool().reused_tokens)

    async with Session(workers=1, batch_width=1) as session:

        def pool() -> PoolStatistics:
            return session.statistics().pools["generation:builtin"]

        for prompt in prompts:  # before the verification too
            await session.complete(prompt, raw=True, max_new_tokens=1)
        before = pool().reused_tokens
        assert before > 0
        report = await verify(
            session, requests=requests, max_new_tokens=3, second_process=False, progress=progress
        )
    assert report.ok
    assert report.steps[0].reused == 3
    # What one answer reuses in the first step, or in any other: so there were none before it.
    assert reused[0] - before == 3 * (before // 2)


async def test_a_difference_after_a_prompt_with_the_same_beginning_is_found() -> None:
    class Remembering(FakeWorker):
        """Answers wrongly what begins as a prompt that it remembers."""

        def __init__(self, engine: FakeEngine) -> None:
            super().__init__(engine)
            self.seen: list[str] = []

        def admit(self, job: Job) -> SlotId:
            assert isinstance(job, FakeJob)
            assert isinstance(job.request, GenerateRequest)
            prompt = str(job.request.prompt)
            wrong = any(prompt[:20] == seen[:20] for seen in self.seen)
            self.seen.append(prompt)
            if wrong:
                job = attrs.evolve(job, request=attrs.evolve(job.request, prompt="wrong"))
            return super().admit(job)

        def shared_tokens(self, job: Job) -> int:
            return 0

        def shed(self) -> None:
            self.seen.clear()

    class Engine(FakeEngine):
        def open_worker(self) -> FakeWorker:
            return Remembering(self)

    prompts = [{"prompt": "The same beginning, and " + end} for end in ("one", "two")]
    async with Session(engine=Engine(), workers=1) as session:
        report = await verify(session, requests=prompts, second_process=False)
    assert report.difference is not None
    assert report.difference.step == "alone, in reverse order"
    assert "'You said: The sam" in report.difference.where


async def test_embeddings_of_the_built_in_model_are_the_same() -> None:
    async with Session(workers=2) as session:
        report = await verify(session, kind="embedding", requests=10)
    assert report.ok
    assert report.comparisons >= 60


def test_the_requests_are_of_many_kinds() -> None:
    requests = _requests_for("generation", 60, 8)
    assert len({json.dumps(request) for request in requests}) == 60
    assert any(request.get("temperature") for request in requests)
    assert requests[:10] == _requests_for("generation", 10, 8)


async def check(answer: Callable[[FakeEngine, GenerateRequest], str], **more: Any) -> VerifyReport:
    engine: FakeEngine = FakeEngine(lambda request: answer(engine, request), width=4)
    more = {"requests": 5, "second_process": False, **more}
    async with Session(engine=engine, workers=1) as session:
        return await verify(session, **more)


async def test_a_difference_in_company_is_found_with_the_company() -> None:
    # What runs at the same moment is for the threads to say: this answer is wrong from the first
    # step with company on.
    steps: list[str] = []

    def answer(engine: FakeEngine, request: GenerateRequest) -> str:
        wrong = "alone, shuffled" in steps and "3" in str(request.prompt)
        return f"You said: {request.prompt}{' and more' if wrong else ''}"

    prompts = [{"prompt": f"request {number}"} for number in range(5)]
    report = await check(answer, requests=prompts, progress=lambda step: steps.append(step.name))
    found = report.difference
    assert found is not None
    assert not report.ok
    assert found.step == "2 at once"
    assert found.request["prompt"] == "request 3"
    assert found.beside
    assert found.request not in found.beside
    assert "byte 19 of the text" in found.where
    assert report.steps[-1].name == "2 at once"


async def test_a_difference_that_shows_once_is_reported_with_its_company() -> None:
    steps: list[str] = []
    wrong: list[GenerateRequest] = []

    def answer(engine: FakeEngine, request: GenerateRequest) -> str:
        if "6 at once" in steps and request.prompt == "request 3" and not wrong:
            wrong.append(request)
            return "wrong"
        return f"You said: {request.prompt}"

    prompts = [{"prompt": f"request {number}"} for number in range(5)]
    report = await check(answer, requests=prompts, progress=lambda step: steps.append(step.name))
    assert report.difference is not None
    assert report.difference.step == "7 at once"
    beside = [request["prompt"] for request in report.difference.beside]
    assert beside == [f"request {number}" for number in (0, 1, 2, 4)]


async def test_a_difference_by_order_names_what_ran_before() -> None:
    def answer(engine: FakeEngine, request: GenerateRequest) -> str:
        return f"You said: {engine.computed[-2:]}"

    report = await check(answer)
    assert report.difference is not None
    assert report.difference.step == "alone, in reverse order"
    assert report.difference.beside == ()


async def test_a_difference_after_a_longer_prompt_is_found() -> None:
    def answer(engine: FakeEngine, request: GenerateRequest) -> str:
        before = engine.computed[-2] if len(engine.computed) > 1 else None
        spoiled = (
            isinstance(before, GenerateRequest) and before.prompt == f"{request.prompt} and so on"
        )
        return "spoiled" if spoiled else "fine"

    report = await check(answer)
    assert report.difference is not None
    assert report.difference.step == "after other prompts"


async def test_a_difference_from_a_stored_state_is_found() -> None:
    class Spoiling(FakeEngine):
        def prepare_declared(self, request: Any, prefix: DeclaredPrefix) -> Job:
            return self.prepare(attrs.evolve(request, prompt="spoiled"))

        def prefix_statistics(self) -> PrefixStatistics:
            return PrefixCache(0, 64).statistics()

    async with Session(engine=Spoiling(), workers=2) as session:
        report = await verify(session, requests=5, second_process=False)
    assert report.difference is not None
    assert report.difference.step == "with prefixes declared"


async def test_a_difference_in_a_second_process_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def other(*arguments: object) -> list[Completion]:
        return [completion("other")] * 5

    monkeypatch.setattr(_verify, "_answer_in_process", other)
    report = await check(lambda engine, request: "same", second_process=True)
    assert report.difference is not None
    assert report.difference.step == "in a second process"
    assert report.difference.where == "byte 0 of the text: alone b'same', in company b'other'"


async def test_a_second_process_that_fails_says_why() -> None:
    with pytest.raises(EngineError, match=r"second process failed \(1\).*/no/such\.gguf"):
        await _answer_in_process(Settings(), "generation", "/no/such.gguf", [{"prompt": "hi"}])


async def test_requests_of_every_form_are_taken() -> None:
    forms: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": "hi"}]},
        {"prompt": "hi", "raw": True, "logit_bias": {3: 1.0}, "stop": ["x"]},
    ]
    async with Session(workers=1, batch_width=1) as session:
        report = await verify(session, requests=forms, max_new_tokens=2)
    assert report.ok
    assert report.requests == 2


async def test_requests_that_do_not_fit_are_skipped_and_counted() -> None:
    engine = FakeEngine(context=4)
    prompts = [{"prompt": "one two three"}, {"prompt": "one two three four"}]
    async with Session(engine=engine, workers=1) as session:
        report = await verify(session, requests=prompts, second_process=False)
        assert (report.requests, report.skipped, report.ok) == (1, 1, True)
        with pytest.raises(PromptTooLongError, match="no request fits"):
            await verify(session, requests=prompts[1:], second_process=False)


@pytest.mark.parametrize("wrong", [{"requests": 0}, {"requests": []}, {"kind": "video"}])
async def test_invalid_arguments_are_refused(wrong: dict[str, Any], session: Session) -> None:
    with pytest.raises(InvalidRequestError):
        await verify(session, **wrong)


async def test_an_unavailable_model_is_refused() -> None:
    async with Session() as session:
        with pytest.raises(ModelNotFoundError):
            await verify(session, model="/no/such.gguf")


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "asteady", "verify", "--max-new-tokens", "3", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "ASTEADY_WORKERS": "1", "ASTEADY_BATCH_WIDTH": "1"},
    )


def test_the_command_prints_a_table_and_exits_with_0(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("hello\n\nWrite a haiku\n")
    done = command("--prompts", str(prompts))
    assert done.returncode == 0, done.stderr
    lines = [line.rsplit(maxsplit=3) for line in done.stdout.splitlines()]
    assert lines[0] == ["STEP", "COMPARISONS", "REUSED", "SECONDS"]
    assert ["2 at once", "2"] in [line[:2] for line in lines]
    assert lines[-1] == ["all", "18", "0"]


def test_the_command_prints_json() -> None:
    done = command("--embedding", "--requests", "2", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["ok"], report["comparisons"], report["kind"]) == (True, 14, "embedding")


def test_the_command_refuses_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("\n")
    done = command("--prompts", str(tmp_path / "prompts.txt"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "the file has no prompts" in done.stderr


def test_the_command_exits_with_1_at_a_difference(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def other(*arguments: object) -> list[Completion]:
        return [completion("other")]

    monkeypatch.setattr(_verify, "_answer_in_process", other)
    monkeypatch.setenv("ASTEADY_WORKERS", "1")
    monkeypatch.setenv("ASTEADY_BATCH_WIDTH", "1")
    assert main(["verify", "--requests", "1", "--max-new-tokens", "2"]) == 1
    shown = capsys.readouterr()
    assert 'request: {"' in shown.out
    assert shown.err.count("\n") == 3
    assert "requests in 7 steps" in shown.err
    assert "in a second process: an answer differs" in shown.err
    assert main(["verify", "--requests", "1", "--max-new-tokens", "2", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["difference"]["step"] == "in a second process"


def test_the_command_says_that_the_time_was_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def cut(*arguments: Any, **more: Any) -> VerifyReport:
        report = await verify(*arguments, second_process=False, **more)
        return attrs.evolve(report, steps=report.steps[:1])

    monkeypatch.setattr(_verify, "verify", cut)
    monkeypatch.setenv("ASTEADY_WORKERS", "1")
    monkeypatch.setenv("ASTEADY_BATCH_WIDTH", "1")
    arguments = ["verify", "--requests", "1", "--max-new-tokens", "2", "--thorough"]
    assert main(arguments) == 0
    assert "the time was up after 1 of 6 steps" in capsys.readouterr().err
    assert main([*arguments, "--quiet"]) == 0
    assert capsys.readouterr().err == ""
