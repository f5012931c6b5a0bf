"""Local language models as pure functions for asyncio: deterministic, cached, coalesced."""

from typing import TYPE_CHECKING, Any

from asteady._base.errors import (
    AsteadyError,
    CacheMissError,
    EngineError,
    InvalidRequestError,
    ModelCapabilityError,
    ModelError,
    ModelFormatError,
    ModelNotFoundError,
    PromptTooLongError,
    QueueFullError,
    SessionClosedError,
    SessionError,
    SessionNotOpenError,
    SettingsError,
    StoreError,
    StoreVersionError,
)
from asteady._base.requests import (
    Completion,
    Embedding,
    EmbedOptions,
    GenerateOptions,
    TokenLogprob,
)
from asteady._base.settings import Settings
from asteady._session.core import SessionStatistics
from asteady._session.default import (
    aclose,
    complete,
    embed,
    generate,
    get_cache_manager,
    is_cached,
    stream,
    warm,
)
from asteady._session.pipeline import CacheMode
from asteady._session.prefix import Prefix
from asteady._session.session import Session
from asteady._session.stream import Stream

if TYPE_CHECKING:
    from asteady._cache.cache import Cache
    from asteady._cache.manager import CacheManager

__version__ = "0.1.0"

__all__ = [
    "AsteadyError",
    "Cache",
    "CacheManager",
    "CacheMissError",
    "CacheMode",
    "Completion",
    "EmbedOptions",
    "Embedding",
    "EngineError",
    "GenerateOptions",
    "InvalidRequestError",
    "ModelCapabilityError",
    "ModelError",
    "ModelFormatError",
    "ModelNotFoundError",
    "Prefix",
    "PromptTooLongError",
    "QueueFullError",
    "Session",
    "SessionClosedError",
    "SessionError",
    "SessionNotOpenError",
    "SessionStatistics",
    "Settings",
    "SettingsError",
    "StoreError",
    "StoreVersionError",
    "Stream",
    "TokenLogprob",
    "__version__",
    "aclose",
    "complete",
    "embed",
    "generate",
    "get_cache_manager",
    "is_cached",
    "stream",
    "warm",
]


def __getattr__(name: str) -> Any:
    # The cache's modules are a quarter of what importing asteady would cost; a session imports
    # them when it is constructed, and these two names when somebody asks for them.
    if name in ("Cache", "CacheManager"):
        from asteady._cache import cache as _cache
        from asteady._cache import manager as _manager

        return _cache.Cache if name == "Cache" else _manager.CacheManager
    raise AttributeError(f"module 'asteady' has no attribute {name!r}")
