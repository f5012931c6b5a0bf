"""Settings: an argument beats the environment, which beats the default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from asteady import Session
from asteady._base.errors import SettingsError
from asteady._base.settings import PROFILES, Settings, default_workers


def test_the_defaults_are_those_of_the_caching_guide() -> None:
    settings = Settings()
    assert settings.generation_cache_capacity == 256
    assert settings.generation_cache_max_size_mb == 50.0
    assert settings.embedding_cache_capacity == 512
    assert settings.embedding_cache_max_size_mb == 100.0
    assert settings.disable_cache is False
    assert settings.cache_dir.parts[-2:] == ("asteady", "caches")
    assert settings.max_pending == 1024
    assert settings.threads == 1
    assert settings.workers == default_workers()
    assert 1 <= settings.workers <= 4


def test_an_argument_beats_the_environment_which_beats_the_default() -> None:
    environ = {"ASTEADY_WORKERS": "3", "ASTEADY_THREADS": "2"}
    settings = Settings.from_environment(environ=environ, threads=1, max_pending=None)
    assert (settings.workers, settings.threads, settings.max_pending) == (3, 1, 1024)


def test_steadytext_names_are_read_where_ours_are_not_set() -> None:
    environ = {
        "STEADYTEXT_GENERATION_CACHE_CAPACITY": "7",
        "STEADYTEXT_EMBEDDING_CACHE_CAPACITY": "8",
        "ASTEADY_EMBEDDING_CACHE_CAPACITY": "9",
        "STEADYTEXT_DISABLE_CACHE": "1",
    }
    settings = Settings.from_environment(environ=environ)
    assert settings.generation_cache_capacity == 7
    assert settings.embedding_cache_capacity == 9
    assert settings.disable_cache is True


def test_an_empty_variable_counts_as_not_set() -> None:
    assert Settings.from_environment(environ={"ASTEADY_WORKERS": ""}).workers == default_workers()


@pytest.mark.parametrize(("word", "meaning"), [("1", True), ("Yes", True), ("off", False)])
def test_switches_have_several_words(word: str, meaning: bool) -> None:
    assert Settings.from_environment(environ={"ASTEADY_DISABLE_CACHE": word}).disable_cache is (
        meaning
    )


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("ASTEADY_WORKERS", "many", "a whole number from 1 to 256"),
        ("ASTEADY_WORKERS", "0", "a whole number from 1 to 256"),
        ("ASTEADY_GENERATION_CACHE_MAX_SIZE_MB", "-1", "a number of megabytes above 0"),
        ("ASTEADY_GENERATION_CACHE_MAX_SIZE_MB", "lots", "a number of megabytes above 0"),
        ("STEADYTEXT_GENERATION_CACHE_CAPACITY", "1.5", "a whole number"),
        ("ASTEADY_DISABLE_CACHE", "maybe", "1 or 0"),
        ("ASTEADY_CACHE_POLICY", "fifo", "tide, lru or lfu"),
        ("ASTEADY_GENERATION_MODEL", " ", "builtin"),
    ],
)
def test_a_bad_variable_is_named_with_its_value_and_what_is_allowed(
    variable: str, value: str, allowed: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment(environ={variable: value})
    message = str(caught.value)
    assert variable in message
    assert value in message
    assert allowed in message


@pytest.mark.parametrize(
    "arguments",
    [
        {"workers": True},
        {"workers": 1.0},
        {"generation_cache_max_size_mb": float("inf")},
        {"generation_cache_max_size_mb": True},
        {"disable_cache": 1},
        {"cache_dir": ""},
        {"cache_dir": 5},
        {"generation_model": 5},
    ],
)
def test_a_bad_argument_is_named(arguments: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(arguments))):
        Settings(**arguments)


def test_an_unknown_setting_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"no setting 'cache_directory'.*cache_dir"):
        Settings.from_environment(cache_directory="x")  # type: ignore[call-arg]  # a wrong name


def test_paths_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings(cache_dir=Path("here"), generation_model=Path("m.gguf"))  # type: ignore[arg-type]  # a path is taken too
    assert settings.cache_dir == tmp_path / "here"
    assert settings.generation_model == "m.gguf"


@pytest.mark.parametrize(
    ("profile", "sizes"),
    [
        ("production", (1024, 200.0, 2048, 500.0)),
        ("development", (128, 25.0, 256, 50.0)),
        ("testing", (32, 10.0, 64, 20.0)),
    ],
)
def test_profiles_are_those_of_the_caching_guide(
    profile: str, sizes: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASTEADY_PROFILE", profile)
    for settings in (
        getattr(Settings, profile)(environ={}),
        Settings.from_environment(profile=profile, environ={}),
        Settings.from_environment(),
        Session().settings,
    ):
        assert sizes == (
            settings.generation_cache_capacity,
            settings.generation_cache_max_size_mb,
            settings.embedding_cache_capacity,
            settings.embedding_cache_max_size_mb,
        )


def test_an_argument_beats_a_variable_which_beats_the_profile() -> None:
    environ = {
        "ASTEADY_PROFILE": "testing",
        "ASTEADY_GENERATION_CACHE_CAPACITY": "7",
        "ASTEADY_EMBEDDING_CACHE_CAPACITY": "8",
    }
    settings = Settings.production(environ=environ, embedding_cache_capacity=9)
    assert settings.generation_cache_capacity == 7
    assert settings.embedding_cache_capacity == 9
    assert settings.generation_cache_max_size_mb == 200.0
    assert Settings.from_environment(environ=environ).generation_cache_max_size_mb == 10.0
    assert Settings.testing(environ={}, workers=3).workers == 3


def test_the_variable_for_the_profile_has_both_prefixes_and_ours_wins() -> None:
    environ = {"STEADYTEXT_PROFILE": "testing"}
    assert Settings.from_environment(environ=environ).generation_cache_capacity == 32
    environ["ASTEADY_PROFILE"] = "development"
    assert Settings.from_environment(environ=environ).generation_cache_capacity == 128
    environ["ASTEADY_PROFILE"] = " "
    assert Settings.from_environment(environ=environ).generation_cache_capacity == 32


def test_a_profile_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with pytest.raises(SettingsError, match=r"ASTEADY_PROFILE='prod' .*production, development"):
        Settings.from_environment(environ={"ASTEADY_PROFILE": "prod"})
    with pytest.raises(SettingsError, match=r"profile='' is not allowed"):
        Settings.from_environment(profile="", environ={})
    with pytest.raises(SettingsError, match="no setting 'size'"):
        Settings.production(size=3)  # type: ignore[call-arg]  # a wrong name


def test_profiles_name_settings_that_exist() -> None:
    for values in PROFILES.values():
        assert Settings(**values).generation_cache_capacity == values["generation_cache_capacity"]  # type: ignore[arg-type]  # checked when it runs
