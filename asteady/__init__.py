"""Local language models as pure functions for asyncio: deterministic, cached, coalesced."""

from asteady._base.public import lazy_exports

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asteady import (
        blocking as blocking,
        operate as operate,
        server as server,
        testing as testing,
    )
    from asteady._base.activity import Activity as Activity, Phase as Phase
    from asteady._base.constraints import Constraint as Constraint
    from asteady._base.errors import (
        AnswerCutError as AnswerCutError,
        AsteadyError as AsteadyError,
        CacheMissError as CacheMissError,
        EngineError as EngineError,
        IncompleteAnswerError as IncompleteAnswerError,
        InvalidRequestError as InvalidRequestError,
        ModelCapabilityError as ModelCapabilityError,
        ModelChangedError as ModelChangedError,
        ModelError as ModelError,
        ModelFormatError as ModelFormatError,
        ModelNotFoundError as ModelNotFoundError,
        PromptTooLongError as PromptTooLongError,
        QueueFullError as QueueFullError,
        RemoteBusyError as RemoteBusyError,
        RemoteError as RemoteError,
        RemoteTimeoutError as RemoteTimeoutError,
        RemoteUnavailableError as RemoteUnavailableError,
        SessionClosedError as SessionClosedError,
        SessionError as SessionError,
        SessionNotOpenError as SessionNotOpenError,
        SettingsError as SettingsError,
        StoreError as StoreError,
        StoreVersionError as StoreVersionError,
    )
    from asteady._base.files import AnyPath as AnyPath
    from asteady._base.messages import (
        AnyMessage as AnyMessage,
        HasModelDump as HasModelDump,
        Message as Message,
        ToolCall as ToolCall,
    )
    from asteady._base.options import (
        EmbedOptions as EmbedOptions,
        GenerateOptions as GenerateOptions,
        SettingsOptions as SettingsOptions,
        TypedOptions as TypedOptions,
    )
    from asteady._base.requests import (
        Completion as Completion,
        Embedding as Embedding,
        EmbedMode as EmbedMode,
        EmbedRequest as EmbedRequest,
        FinishReason as FinishReason,
        GenerateRequest as GenerateRequest,
        Key as Key,
        Kind as Kind,
        ReasoningChunk as ReasoningChunk,
        StreamEvent as StreamEvent,
        TextChunk as TextChunk,
        TokenLogprob as TokenLogprob,
        TypedCompletion as TypedCompletion,
        Vector as Vector,
    )
    from asteady._base.settings import CachePolicy as CachePolicy, Settings as Settings
    from asteady._base.tools import AnyTool as AnyTool
    from asteady._cache.cache import Cache as Cache
    from asteady._cache.manager import CacheManager as CacheManager
    from asteady._cache.store.api import (
        Entry as Entry,
        Exported as Exported,
        Holding as Holding,
        Merged as Merged,
        Moved as Moved,
        NamespaceSize as NamespaceSize,
        Order as Order,
    )
    from asteady._engine.api import (
        AnswerEvent as AnswerEvent,
        CallEvent as CallEvent,
        ChunkEvent as ChunkEvent,
        Engine as Engine,
        ErrorEvent as ErrorEvent,
        Job as Job,
        MachineStatistics as MachineStatistics,
        PrefixStatistics as PrefixStatistics,
        Worker as Worker,
    )
    from asteady._engine.pool import PoolStatistics as PoolStatistics
    from asteady._session.calls import Progress as Progress
    from asteady._session.default import (
        aclose as aclose,
        complete as complete,
        count_tokens as count_tokens,
        embed as embed,
        generate as generate,
        get_cache_manager as get_cache_manager,
        is_cached as is_cached,
        stream as stream,
        warm as warm,
    )
    from asteady._session.flight import FlightStatistics as FlightStatistics
    from asteady._session.generation import (
        Prefix as Prefix,
        Stream as Stream,
        TypedStream as TypedStream,
    )
    from asteady._session.namespace import (
        Namespace as Namespace,
        NamespaceCounts as NamespaceCounts,
        NamespaceStatistics as NamespaceStatistics,
    )
    from asteady._session.observe import (
        Observed as Observed,
        Observer as Observer,
        Outcome as Outcome,
    )
    from asteady._session.pipeline import CacheMode as CacheMode
    from asteady._session.session import Session as Session, SessionStatistics as SessionStatistics
    from asteady._session.warm import (
        Priority as Priority,
        WarmerOptions as WarmerOptions,
        WarmFailure as WarmFailure,
        WarmOptions as WarmOptions,
        WarmOutcome as WarmOutcome,
        WarmProgress as WarmProgress,
        WarmPrompt as WarmPrompt,
        WarmReport as WarmReport,
        WarmSource as WarmSource,
    )
else:
    # Importing everything takes a quarter of a second; a name is imported when it is first used.
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "asteady.blocking": "",
            "asteady.operate": "",
            "asteady.server": "",
            "asteady.testing": "",
            "asteady._base.activity": "Activity Phase",
            "asteady._base.constraints": "Constraint",
            "asteady._base.errors": (
                "AnswerCutError AsteadyError CacheMissError EngineError IncompleteAnswerError"
                " InvalidRequestError ModelCapabilityError"
                " ModelChangedError ModelError ModelFormatError ModelNotFoundError"
                " PromptTooLongError QueueFullError RemoteBusyError RemoteError RemoteTimeoutError"
                " RemoteUnavailableError SessionClosedError SessionError"
                " SessionNotOpenError SettingsError StoreError StoreVersionError"
            ),
            "asteady._base.files": "AnyPath",
            "asteady._base.messages": "AnyMessage HasModelDump Message ToolCall",
            "asteady._base.options": "EmbedOptions GenerateOptions SettingsOptions TypedOptions",
            "asteady._base.requests": (
                "Completion Embedding EmbedMode EmbedRequest FinishReason GenerateRequest Key Kind"
                " ReasoningChunk StreamEvent TextChunk TokenLogprob TypedCompletion Vector"
            ),
            "asteady._base.settings": "CachePolicy Settings",
            "asteady._base.tools": "AnyTool",
            "asteady._cache.cache": "Cache",
            "asteady._cache.manager": "CacheManager",
            "asteady._cache.store.api": "Entry Exported Holding Merged Moved NamespaceSize Order",
            "asteady._engine.api": (
                "AnswerEvent CallEvent ChunkEvent Engine ErrorEvent Job MachineStatistics"
                " PrefixStatistics Worker"
            ),
            "asteady._engine.pool": "PoolStatistics",
            "asteady._session.calls": "Progress",
            "asteady._session.default": (
                "aclose complete count_tokens embed generate get_cache_manager is_cached stream"
                " warm"
            ),
            "asteady._session.flight": "FlightStatistics",
            "asteady._session.generation": "Prefix Stream TypedStream",
            "asteady._session.namespace": "Namespace NamespaceCounts NamespaceStatistics",
            "asteady._session.observe": "Observed Observer Outcome",
            "asteady._session.pipeline": "CacheMode",
            "asteady._session.session": "Session SessionStatistics",
            "asteady._session.warm": (
                "Priority WarmFailure WarmOptions WarmOutcome WarmProgress WarmPrompt WarmReport"
                " WarmSource WarmerOptions"
            ),
        },
    )
    __all__ += ["__version__"]

__version__ = "0.1.0"
