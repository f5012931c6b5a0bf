"""Local language models as pure functions for asyncio: deterministic, cached, coalesced."""

from typing import TYPE_CHECKING

from asteady._base.public import lazy_exports

if TYPE_CHECKING:
    from asteady import blocking as blocking
    from asteady import operate as operate
    from asteady import testing as testing
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
    from asteady._base.options import EmbedOptions, GenerateOptions
    from asteady._base.requests import Completion, Embedding, TokenLogprob
    from asteady._base.settings import Settings
    from asteady._cache.cache import Cache
    from asteady._cache.manager import CacheManager
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
    from asteady._session.generation import Prefix
    from asteady._session.pipeline import CacheMode
    from asteady._session.session import Session, SessionStatistics
    from asteady._session.stream import Stream
else:
    # Importing everything takes a quarter of a second; a name is imported when it is first used.
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "asteady.blocking": "",
            "asteady.operate": "",
            "asteady.testing": "",
            "asteady._base.errors": (
                "AsteadyError CacheMissError EngineError InvalidRequestError ModelCapabilityError"
                " ModelError ModelFormatError ModelNotFoundError PromptTooLongError QueueFullError"
                " SessionClosedError SessionError SessionNotOpenError SettingsError StoreError"
                " StoreVersionError"
            ),
            "asteady._base.options": "EmbedOptions GenerateOptions",
            "asteady._base.requests": "Completion Embedding TokenLogprob",
            "asteady._base.settings": "Settings",
            "asteady._cache.cache": "Cache",
            "asteady._cache.manager": "CacheManager",
            "asteady._session.default": (
                "aclose complete embed generate get_cache_manager is_cached stream warm"
            ),
            "asteady._session.pipeline": "CacheMode",
            "asteady._session.generation": "Prefix",
            "asteady._session.session": "Session SessionStatistics",
            "asteady._session.stream": "Stream",
        },
    )

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
