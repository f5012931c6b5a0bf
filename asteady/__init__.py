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
    from asteady._base.files import AnyPath
    from asteady._base.options import EmbedOptions, GenerateOptions, SettingsOptions
    from asteady._base.requests import (
        Completion,
        Embedding,
        EmbedMode,
        EmbedRequest,
        FinishReason,
        GenerateRequest,
        Key,
        Kind,
        TokenLogprob,
        Vector,
    )
    from asteady._base.settings import CachePolicy, Settings
    from asteady._cache.cache import Cache
    from asteady._cache.manager import CacheManager
    from asteady._cache.store.api import Entry, Exported, Holding, Merged, NamespaceSize, Order
    from asteady._engine.api import (
        AnswerEvent,
        ChunkEvent,
        Engine,
        ErrorEvent,
        Job,
        PrefixStatistics,
        Worker,
    )
    from asteady._engine.pool import PoolStatistics
    from asteady._session.calls import Progress
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
    from asteady._session.namespace import Namespace, NamespaceCounts, NamespaceStatistics
    from asteady._session.observe import Observed, Observer, Outcome
    from asteady._session.pipeline import CacheMode
    from asteady._session.session import Session, SessionStatistics
    from asteady._session.stream import Stream
    from asteady._session.warm import (
        Priority,
        WarmerOptions,
        WarmFailure,
        WarmOptions,
        WarmOutcome,
        WarmProgress,
        WarmPrompt,
        WarmReport,
        WarmSource,
    )
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
            "asteady._base.files": "AnyPath",
            "asteady._base.options": "EmbedOptions GenerateOptions SettingsOptions",
            "asteady._base.requests": (
                "Completion Embedding EmbedMode EmbedRequest FinishReason GenerateRequest Key Kind"
                " TokenLogprob Vector"
            ),
            "asteady._base.settings": "CachePolicy Settings",
            "asteady._cache.cache": "Cache",
            "asteady._cache.manager": "CacheManager",
            "asteady._cache.store.api": "Entry Exported Holding Merged NamespaceSize Order",
            "asteady._engine.api": (
                "AnswerEvent ChunkEvent Engine ErrorEvent Job PrefixStatistics Worker"
            ),
            "asteady._engine.pool": "PoolStatistics",
            "asteady._session.calls": "Progress",
            "asteady._session.default": (
                "aclose complete embed generate get_cache_manager is_cached stream warm"
            ),
            "asteady._session.generation": "Prefix",
            "asteady._session.namespace": "Namespace NamespaceCounts NamespaceStatistics",
            "asteady._session.observe": "Observed Observer Outcome",
            "asteady._session.pipeline": "CacheMode",
            "asteady._session.session": "Session SessionStatistics",
            "asteady._session.stream": "Stream",
            "asteady._session.warm": (
                "Priority WarmFailure WarmOptions WarmOutcome WarmProgress WarmPrompt WarmReport"
                " WarmSource WarmerOptions"
            ),
        },
    )

__version__ = "0.1.0"

__all__ = [
    "AnswerEvent",
    "AnyPath",
    "AsteadyError",
    "Cache",
    "CacheManager",
    "CacheMissError",
    "CacheMode",
    "CachePolicy",
    "ChunkEvent",
    "Completion",
    "EmbedMode",
    "EmbedOptions",
    "EmbedRequest",
    "Embedding",
    "Engine",
    "EngineError",
    "Entry",
    "ErrorEvent",
    "Exported",
    "FinishReason",
    "GenerateOptions",
    "GenerateRequest",
    "Holding",
    "InvalidRequestError",
    "Job",
    "Key",
    "Kind",
    "Merged",
    "ModelCapabilityError",
    "ModelError",
    "ModelFormatError",
    "ModelNotFoundError",
    "Namespace",
    "NamespaceCounts",
    "NamespaceSize",
    "NamespaceStatistics",
    "Observed",
    "Observer",
    "Order",
    "Outcome",
    "PoolStatistics",
    "Prefix",
    "PrefixStatistics",
    "Priority",
    "Progress",
    "PromptTooLongError",
    "QueueFullError",
    "Session",
    "SessionClosedError",
    "SessionError",
    "SessionNotOpenError",
    "SessionStatistics",
    "Settings",
    "SettingsError",
    "SettingsOptions",
    "StoreError",
    "StoreVersionError",
    "Stream",
    "TokenLogprob",
    "Vector",
    "WarmFailure",
    "WarmOptions",
    "WarmOutcome",
    "WarmProgress",
    "WarmPrompt",
    "WarmReport",
    "WarmSource",
    "WarmerOptions",
    "Worker",
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
