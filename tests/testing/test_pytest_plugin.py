"""The pytest plugin: other people's tests, in a pytest of their own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]

TESTS = """
import asyncio
import asteady, asteady.blocking
import pytest

@pytest.mark.anyio
async def test_awaited(asteady_session):
    async with asteady_session as session:
        assert await session.generate("Write a haiku about rain", max_new_tokens=8)
        assert (await session.embed("rain")).shape == (256,)

def test_blocking(asteady_recording):
    assert asteady.blocking.generate("Write a haiku about rain", max_new_tokens=8)

@pytest.fixture
def anyio_backend():
    return "asyncio"
"""


@pytest.fixture(autouse=True)
def _found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    # Those of all packages that are installed take longer to import than the tests to run.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_PLUGINS", "anyio.pytest_plugin")


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    """In a process of its own: after a run in this one, pytest removes the modules that the run
    imported, and the next run would mix their classes with those of a second import."""
    done = pytester.runpytest_subprocess("-p", "asteady.testing.pytest_plugin", *arguments)
    # Sessions that end with the interpreter must not print tracebacks.
    done.stderr.no_fnmatch_line("*Exception ignored*")
    return done


def test_record_then_replay_then_a_missing_answer(pytester: pytest.Pytester) -> None:
    test = pytester.makepyfile(test_it=TESTS)
    answers = test.with_name("test_it.answers.toml")

    missing = run(pytester)
    missing.assert_outcomes(failed=2)
    missing.stdout.fnmatch_lines(
        [
            "test_it.py:8: no answer is recorded in *test_it.answers.toml for this generation *:",
            '    prompt = "Write a haiku about rain"',
            "    max_new_tokens = 8",
            "The file has no generation requests.",
        ]
    )
    # Once for each test, and not again for each error that it caused on its way.
    lines = [line for line in missing.outlines if "no answer is recorded in" in line]
    assert len([line for line in lines if not line.startswith("FAILED")]) == 2
    assert not answers.exists()

    run(pytester, "--asteady-record").assert_outcomes(passed=2)
    recorded = answers.read_text()
    assert recorded.count("[[generation]]") == 1
    assert recorded.count("[[embedding]]") == 1

    # What a model would say is not asked: an answer that was edited is the answer.
    answers.write_text(recorded.replace('finish_reason = "length"', 'finish_reason = "stop"'))
    pytester.makepyfile(
        test_it=TESTS
        + """
def test_edited(asteady_recording):
    answer = asteady.blocking.complete("Write a haiku about rain", max_new_tokens=8)
    assert answer.finish_reason == "stop"
    import sys
    assert "llama_cpp" not in sys.modules
"""
    )
    run(pytester, "--asteady-replay").assert_outcomes(passed=3)

    pytester.makepyfile(test_it=TESTS.replace("about rain", "about snow"))
    changed = run(pytester)
    changed.assert_outcomes(failed=2)
    changed.stdout.fnmatch_lines(
        [
            '    - prompt = "Write a haiku about rain"',
            '    + prompt = "Write a haiku about snow"',
        ]
    )
    run(pytester, "--asteady-live").assert_outcomes(passed=2)
    assert "snow" not in answers.read_text()


def test_a_program_that_hides_the_error_fails_its_test_all_the_same(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        """
        import asteady, asteady.blocking

        def test_hidden(asteady_recording):
            try:
                asteady.blocking.generate("hi")
            except asteady.AsteadyError:
                pass

        def test_skipped(asteady_recording):
            import pytest

            try:
                asteady.blocking.generate("hi")
            except asteady.AsteadyError:
                pytest.skip("no model here")
        """
    )
    done = run(pytester)
    done.assert_outcomes(failed=2)
    done.stdout.fnmatch_lines(["no answer is recorded in *"])
    done.stdout.no_fnmatch_line("*Traceback*")


def test_tests_that_fail_for_other_reasons_still_say_why(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_fails(asteady_recording):\n    assert 1 == 2")
    done = run(pytester)
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["*assert 1 == 2*"])


def test_the_file_may_lie_elsewhere(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import pytest

        @pytest.fixture
        def asteady_recording_path(request):
            return request.config.rootpath / "recorded.toml"
        """
    )
    test = pytester.makepyfile(test_it=TESTS)
    run(pytester, "--asteady-record", "-k", "blocking").assert_outcomes(passed=1, deselected=1)
    assert test.with_name("recorded.toml").exists()
    assert not test.with_name("test_it.answers.toml").exists()


def test_recordings_are_not_shared_with_other_machines(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASTEADY_SHARED_CACHE", "redis://127.0.0.1:1")
    monkeypatch.setenv("STEADYTEXT_SHARED_CACHE", "redis://127.0.0.1:1")
    pytester.makepyfile(
        """
def test_it(asteady_session):
    assert asteady_session.settings.shared_cache is None
"""
    )
    run(pytester).assert_outcomes(passed=1)


def test_a_run_that_does_not_use_it_imports_only_the_front(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_PLUGINS")
    pytester.makepyfile(
        """
        import sys

        def test_nothing():
            ours = {name for name in sys.modules if name.split(".")[0] == "asteady"}
            assert ours == {
                "asteady", "asteady._base", "asteady._base.public", "asteady.testing",
                "asteady.testing.pytest_plugin",
            }
            assert not {"anyio", "attrs", "numpy"} & set(sys.modules)
        """
    )
    run(pytester).assert_outcomes(passed=1)


def test_coverage_of_asteady_counts_what_runs_when_it_is_imported(
    pytester: pytest.Pytester,
) -> None:
    """Plugins are imported before coverage is measured; this one imports only the front."""
    pytester.makepyfile("from asteady import AsteadyError\n\ndef test_nothing(): pass")
    pytester.makefile(".cfg", cov="[run]\nsource_pkgs = asteady._base\n")
    done = run(pytester, "-p", "pytest_cov", "--cov", "--cov-config=cov.cfg")
    done.assert_outcomes(passed=1)
    (line,) = [
        line for line in done.outlines if line.split()[:1] == [f"{ROOT}/asteady/_base/errors.py"]
    ]
    # Imported beforehand it would be 0 %; only a method is not called.
    assert int(line.split()[-1].rstrip("%")) > 90


def test_the_plugin_is_in_the_package_and_named_as_its_module() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["pytest11"] == {
        "asteady.testing.pytest_plugin": "asteady.testing.pytest_plugin"
    }


def test_the_examples_in_the_documentation_pass(pytester: pytest.Pytester) -> None:
    page = (ROOT / "docs" / "testing.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    assert len(blocks) == 3
    # The one for pytest-asyncio, run by anyio's plugin: the mark is all that differs.
    blocks[1] = blocks[1].replace("mark.asyncio", "mark.anyio")
    pytester.makeconftest("import pytest\n\n@pytest.fixture\ndef anyio_backend(): return 'asyncio'")
    for number, block in enumerate(blocks):
        pytester.makepyfile(**{f"test_{number}": block})
    run(pytester, "--asteady-record").assert_outcomes(passed=4)
    run(pytester).assert_outcomes(passed=4)
