"""Settings: an argument beats an ``ASTEADY_*`` variable, which beats the profile, then the default.

For people who move over from SteadyText, each variable is also read with the prefix
``STEADYTEXT_`` where the ``ASTEADY_`` one is not set.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeAlias, Unpack

import attrs

from asteady._base import validation
from asteady._base.errors import AsteadyError, SettingsError
from asteady._base.files import absolute_path
from asteady._base.options import SettingsOptions, shows_options_of, unknown_setting
from asteady._base.public import public
from asteady._base.redis_url import check_redis_url, hidden_password
from asteady._base.rendering import DEFAULT_DATE, date_of
from asteady._base.validation import refuse

CachePolicy: TypeAlias = Literal["tide", "lru", "lfu"]

PREFIXES = ("ASTEADY_", "STEADYTEXT_")
# References that are no paths, beside those of the hub.
NAMED_MODELS = ("builtin", "minilm", "smollm2")
# Begins the references of models that servers compute.
REMOTE_PREFIX = "openai+"
MEBIBYTE = 1024 * 1024
KEEP_REQUESTS_BYTES = 4096
# Of the automaton of an answer's form: 1 to 2 KB each.
FORM_MAX_STATES = 50_000

# The three of the caching guide: how many entries, and how many megabytes of them.
PROFILES: dict[str, dict[str, float]] = {
    name: {
        "generation_cache_capacity": generation,
        "generation_cache_max_size_mb": generation_mb,
        "embedding_cache_capacity": embedding,
        "embedding_cache_max_size_mb": embedding_mb,
    }
    for name, generation, generation_mb, embedding, embedding_mb in (
        ("production", 1024, 200.0, 2048, 500.0),
        ("development", 128, 25.0, 256, 50.0),
        ("testing", 32, 10.0, 64, 20.0),
    )
}


def _refuse(name: str, value: object, allowed: str) -> AsteadyError:
    return refuse(name, value, allowed, SettingsError)


def _whole(low: int, high: int) -> Callable[[str, object], int]:
    def read(name: str, value: object) -> int:
        allowed = f"a whole number from {low} to {high}"
        if isinstance(value, str):
            with suppress(ValueError):
                value = int(value.strip())
        return validation.whole_number(name, value, low, high, allowed=allowed, error=SettingsError)

    return read


def _number(allowed: str, high: float, *, above: bool) -> Callable[[str, object], float]:
    def read(name: str, value: object) -> float:
        if isinstance(value, str):
            with suppress(ValueError):
                value = float(value.strip())
        return validation.number(
            name, value, 0, high, above=above, allowed=allowed, error=SettingsError
        )

    return read


_megabytes = _number("a number of megabytes above 0, such as 50.0", 2**24, above=True)
_seconds = _number("a number of seconds, such as 300; 0 for never", 10**9, above=False)
_timeout = _number("a number of seconds above 0, such as 2.0", 3600, above=True)


def _optional(read: Callable[[str, object], Any]) -> Callable[[str, object], Any]:
    def read_or_none(name: str, value: object) -> Any:
        return None if value is None else read(name, value)

    return read_or_none


def _switch(name: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        word = value.strip().lower()
        if word in ("1", "true", "yes", "on"):
            return True
        if word in ("", "0", "false", "no", "off"):
            return False
    raise _refuse(name, value, "1 or 0 (also true, false, yes, no, on, off)")


def _date(name: str, value: object) -> str:
    return date_of(name, value, error=SettingsError)


def _policy(name: str, value: object) -> CachePolicy:
    for known in ("tide", "lru", "lfu"):
        if value == known:
            return known
    raise _refuse(name, value, "tide, lru or lfu")


def _directory(name: str, value: object) -> Path:
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise _refuse(name, value, "the path of a directory")
    try:
        return absolute_path(value)
    except ValueError as exc:
        raise _refuse(name, value, str(exc)) from None


def _shown_url(url: str | None) -> str:
    return repr(url and hidden_password(url))


def _redis_url(name: str, value: object) -> str | None:
    if value == "":
        return None
    try:
        check_redis_url(value)
    except ValueError as exc:
        shown = hidden_password(value) if isinstance(value, str) else value
        raise _refuse(name, shown, str(exc)) from None
    assert isinstance(value, str)
    return value


def model_reference(
    name: str,
    value: object,
    *,
    base: Callable[[], Path] = Path.cwd,
    error: type[AsteadyError] = SettingsError,
) -> str:
    """A reference as it was given, but a path absolute, beginning at ``base()``: the current
    directory may change between naming a model and loading it.

    Raises:
        AsteadyError: it is no str and no path, or no file can have it as its path.
    """
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str) or not path.strip():
        raise refuse(
            name,
            value,
            '"builtin", "smollm2", the path of a .gguf file, hf:..., or openai+http://...',
            error,
        )
    if path is value and (path in NAMED_MODELS or path.startswith(("hf:", REMOTE_PREFIX))):
        return path
    if path is value and re.match("(https?|unix)://", path):
        remedy = f"a model of a server is {REMOTE_PREFIX}http://host:8000/v1#name"
        address, _, model = path.partition("#")
        raise refuse(name, hidden_password(address) + (model and f"#{model}"), remedy, error)
    try:
        return str(absolute_path(path, base=base))
    except ValueError as exc:
        raise refuse(name, value, str(exc), error) from None


def _default_cache_dir() -> Path:
    import platformdirs

    try:
        found = platformdirs.user_cache_dir("asteady", appauthor=False)
    except RuntimeError:
        found = "~"
    if found.startswith("~"):  # older versions leave it as it is
        raise SettingsError(
            "cache_dir has no default, as this user has no home directory (HOME is not set): set "
            "ASTEADY_CACHE_DIR to a directory; what is known of models is there even if the cache "
            "is disabled"
        )
    return Path(found) / "caches"


def default_workers() -> int:
    """One worker per core that this process may use, at most 4."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:  # pragma: no cover  # other systems than Linux
        cores = os.cpu_count() or 1
    return max(1, min(4, cores))


def _field(read: Callable[[str, object], Any], default: Any = attrs.NOTHING, **more: Any) -> Any:
    return attrs.field(default=default, metadata={"read": read}, **more)


@public
@attrs.frozen(kw_only=True)
class Settings:
    """How a session is set up. Construct it with no arguments to get the defaults.

    ``Settings.from_environment(**arguments)`` reads the environment for whatever is not given, and
    `production`, `development` and `testing` do so too, with sizes of the caches in place of the
    defaults. A megabyte is 1,048,576 bytes.

    `cores` are shared by all workers of a session; None means those that the process may use, by
    affinity and by its container's quota. `threads` fixes the number for each call; None means the
    cores that no other worker needs. `context_tokens` bounds prompt and answer together; None means
    what the model was trained on. `context_memory_mb` bounds the keys and values of all requests;
    None means a quarter of the machine's memory, or of its container's limit. `shared_cache` is the
    URL of a Redis or Valkey server that several machines share answers on. docs/configuration.md
    has all settings.

    Raises:
        SettingsError: a value is not allowed; the message names the setting (or the variable),
            the value and what is allowed.
    """

    # ruff: noqa: RUF009  # _field is attrs.field with a reader
    generation_cache_capacity: int = _field(_whole(1, 10**9), 256)
    generation_cache_max_size_mb: float = _field(_megabytes, 50.0)
    embedding_cache_capacity: int = _field(_whole(1, 10**9), 512)
    embedding_cache_max_size_mb: float = _field(_megabytes, 100.0)
    memory_max_size_mb: float = _field(_megabytes, 64.0)
    cache_policy: CachePolicy = _field(_policy, "tide")
    disable_cache: bool = _field(_switch, False)
    keep_requests_bytes: int = _field(_whole(0, 2**20), KEEP_REQUESTS_BYTES)
    store_timeout_s: float = _field(_timeout, 2.0)
    cache_dir: Path = _field(_directory, attrs.Factory(_default_cache_dir))
    generation_model: str = _field(model_reference, "builtin")
    embedding_model: str = _field(model_reference, "builtin")
    workers: int = _field(_whole(1, 256), attrs.Factory(default_workers))
    cores: int | None = _field(_optional(_whole(1, 4096)), None)
    threads: int | None = _field(_optional(_whole(1, 4096)), None)
    gpu_layers: int = _field(_whole(-1, 10_000), 0)
    batch_width: int = _field(_whole(1, 64), 8)
    probe: bool = _field(_switch, True)
    max_pending: int = _field(_whole(1, 10**9), 1024)
    form_max_characters: int | None = _field(_optional(_whole(1, 2**31 - 1)), None)
    form_max_states: int = _field(_whole(1, 2**31 - 1), FORM_MAX_STATES)
    context_tokens: int | None = _field(_optional(_whole(64, 2**31 - 1)), None)
    context_memory_mb: float | None = _field(_optional(_megabytes), None)
    prefix_max_size_mb: float = _field(_megabytes, 512.0)
    idle_unload_s: float = _field(_seconds, 0.0)
    shared_cache: str | None = _field(_optional(_redis_url), None, repr=_shown_url)
    shared_cache_timeout_s: float = _field(_timeout, 0.5)
    shared_cache_lease_s: float = _field(_timeout, 10.0)
    shared_cache_any_cpu: bool = _field(_switch, False)
    date: str = _field(_date, DEFAULT_DATE)

    def __attrs_post_init__(self) -> None:
        for field in attrs.fields(Settings):
            read = field.metadata["read"]
            object.__setattr__(self, field.name, read(field.name, getattr(self, field.name)))

    @classmethod
    def from_environment(
        cls,
        *,
        environ: Mapping[str, str] | None = None,
        **arguments: Unpack[SettingsOptions],
    ) -> Settings:
        """Settings from `arguments`, else the environment, else the profile, else the defaults.

        An argument of None counts as not given. The profile is "production", "development" or
        "testing", from the argument `profile` or from ``ASTEADY_PROFILE``; without either there
        is none. `environ` replaces ``os.environ``.

        Raises:
            SettingsError: a value is not allowed, or there is no such setting or profile.
        """
        return cls._read({**arguments}, environ)

    @classmethod
    def production(
        cls, *, environ: Mapping[str, str] | None = None, **overrides: Unpack[SettingsOptions]
    ) -> Settings:
        """Generation cache 1024 entries, 200 MB; embedding cache 2048 entries, 500 MB.

        As ``from_environment(profile="production", **overrides)``: a variable beats the profile.
        """
        return cls._read({**overrides, "profile": "production"}, environ)

    @classmethod
    def development(
        cls, *, environ: Mapping[str, str] | None = None, **overrides: Unpack[SettingsOptions]
    ) -> Settings:
        """Generation cache 128 entries, 25 MB; embedding cache 256 entries, 50 MB."""
        return cls._read({**overrides, "profile": "development"}, environ)

    @classmethod
    def testing(
        cls, *, environ: Mapping[str, str] | None = None, **overrides: Unpack[SettingsOptions]
    ) -> Settings:
        """Generation cache 32 entries, 10 MB; embedding cache 64 entries, 20 MB."""
        return cls._read({**overrides, "profile": "testing"}, environ)

    @classmethod
    def _read(cls, given: dict[str, Any], environ: Mapping[str, str] | None) -> Settings:
        environ = os.environ if environ is None else environ
        profile = given.pop("profile", None)
        known = {field.name: field for field in attrs.fields(cls)}
        for name in given:
            if name not in known:
                raise SettingsError(unknown_setting(name, [*known, "profile"]))
        values = {name: value for name, value in given.items() if value is not None}
        for name, field in known.items():
            for prefix in PREFIXES:
                variable = prefix + name.upper()
                if name not in values and environ.get(variable, "") != "":
                    # Read under the variable's own name, so that an error names the variable.
                    values[name] = field.metadata["read"](variable, environ[variable])
        return cls(**{**_profile(profile, environ), **values})


for _method in ("from_environment", "production", "development", "testing"):
    shows_options_of(Settings)(vars(Settings)[_method].__func__)


def _profile(profile: str | None, environ: Mapping[str, str]) -> Mapping[str, float]:
    """The values of the profile that is given, or else named in the environment."""
    name: str = "profile"
    value: object = profile
    if value is None:
        for prefix in reversed(PREFIXES):
            variable = f"{prefix}PROFILE"
            if environ.get(variable, "").strip():
                name, value = variable, environ[variable].strip()
    if value is None:
        return {}
    if not isinstance(value, str) or value not in PROFILES:
        raise _refuse(name, value, ", ".join(PROFILES))
    return PROFILES[value]
