"""Local language models as pure functions for asyncio: deterministic, cached, coalesced."""

from asteady._answering import CacheMode
from asteady._core import SessionStatistics
from asteady._default import (
    aclose,
    complete,
    embed,
    generate,
    get_cache_manager,
    is_cached,
    stream,
)
from asteady._errors import (
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
from asteady._requests import (
    Completion,
    Embedding,
    EmbedOptions,
    GenerateOptions,
    TokenLogprob,
)
from asteady._session import Session
from asteady._settings import Settings
from asteady._stream import Stream
from asteady.cache._cache import Cache
from asteady.cache._manager import CacheManager

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
]
