"""Settings: an argument beats the environment, which beats the default."""

from __future__ import annotations

import pwd
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import platformdirs
import pytest

from asteady import Session
from asteady._base.errors import ModelNotFoundError, SettingsError
from asteady._base.settings import NAMED_MODELS, PROFILES, Settings, default_workers
from asteady._engine.models.hub import hub_cache


def test_the_defaults_are_those_of_the_caching_guide() -> None:
    settings = Settings()
    assert settings.generation_cache_capacity == 256
    assert settings.generation_cache_max_size_mb == 50.0
    assert settings.embedding_cache_capacity == 512
    assert settings.embedding_cache_max_size_mb == 100.0
    assert settings.disable_cache is False
    assert settings.cache_dir.parts[-2:] == ("asteady", "caches")
    assert settings.max_pending == 1024
    assert settings.threads is settings.cores is settings.context_tokens is None
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


def test_the_url_of_a_server_is_no_model_without_its_prefix() -> None:
    with pytest.raises(SettingsError, match=r"host.*openai\+http://") as caught:
        Settings(generation_model="http://me:secret@host:8000/v1#name")
    assert "secret" not in str(caught.value)


def test_an_unknown_setting_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"no setting 'cache_directory'.*cache_dir"):
        Settings.from_environment(cache_directory="x")  # type: ignore[call-arg]  # a wrong name


def test_paths_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings(cache_dir=Path("here"), generation_model=Path("m.gguf"))  # type: ignore[arg-type]  # a path is taken too
    assert settings.cache_dir == tmp_path / "here"
    assert settings.generation_model == str(tmp_path / "m.gguf")
    monkeypatch.setenv("HOME", "/home/me")
    settings = Settings.from_environment(
        environ={"ASTEADY_GENERATION_MODEL": "sub/m.gguf", "ASTEADY_EMBEDDING_MODEL": "~/e.gguf"}
    )
    assert settings.generation_model == str(tmp_path / "sub" / "m.gguf")
    assert settings.embedding_model == "/home/me/e.gguf"


@pytest.mark.parametrize("model", [*NAMED_MODELS, "hf:owner/repo:Q4_K_M", "hf:anything"])
def test_names_of_models_stay_as_they_are(model: str) -> None:
    assert Settings(embedding_model=model).embedding_model == model


@pytest.mark.parametrize("value", ["\0", "\ud800", "~nosuchuser/x"])
def test_what_is_no_path_is_refused(value: str) -> None:
    for setting in ("cache_dir", "generation_model"):
        with pytest.raises(SettingsError, match=setting) as caught:
            Settings(**{setting: value})  # type: ignore[arg-type]
        str(caught.value).encode()


@pytest.mark.parametrize("arguments", [{}, {"disable_cache": True}])
def test_a_user_without_a_home_is_told_to_name_the_directory(
    arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_user(uid: int) -> NoReturn:
        raise KeyError(uid)

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_user)
    with pytest.raises(SettingsError, match=r"no home directory.*ASTEADY_CACHE_DIR"):
        Settings.from_environment(environ={}, **arguments)
    with pytest.raises(SettingsError, match=r"ASTEADY_CACHE_DIR='~/x'.*set HOME"):
        Settings.from_environment(environ={"ASTEADY_CACHE_DIR": "~/x"}, **arguments)
    given = {"ASTEADY_CACHE_DIR": str(tmp_path)}
    assert Settings.from_environment(environ=given, **arguments).cache_dir == tmp_path
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda *_, **__: "~/.cache/asteady")
    with pytest.raises(SettingsError, match="no home directory"):
        Settings.from_environment(environ={}, **arguments)
    monkeypatch.delenv("HF_HOME", raising=False)
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    with pytest.raises(ModelNotFoundError, match="set HF_HOME"):
        hub_cache()


def test_numbers_of_numpy_are_numbers() -> None:
    settings = Settings(workers=np.int64(3), memory_max_size_mb=np.float32(2.5))  # type: ignore[arg-type]
    assert (settings.workers, settings.memory_max_size_mb) == (3, 2.5)
    assert [type(settings.workers), type(settings.memory_max_size_mb)] == [int, float]
    with pytest.raises(SettingsError, match="workers"):
        Settings(workers=np.bool_(True))  # type: ignore[arg-type]


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
