"""Everything that asteady raises on purpose.

    AsteadyError
    ├── InvalidRequestError (ValueError)    an argument of a request is not allowed
    │   └── PromptTooLongError              more tokens than the model's context holds
    ├── SettingsError (ValueError)          a setting or its variable is not allowed
    ├── IncompleteAnswerError (ValueError)  cut by `max_new_tokens` before its form was complete
    ├── CacheMissError (LookupError)        cache="only", and the answer is not in the cache
    ├── QueueFullError                      `max_pending` requests are already waiting
    ├── SessionError (RuntimeError)         the session is in the wrong state for this call
    │   ├── SessionNotOpenError
    │   └── SessionClosedError
    ├── ModelError                          the model is unavailable or cannot do this
    │   ├── ModelNotFoundError              no such file, package or reference
    │   ├── ModelFormatError                the file is no complete GGUF, or not the expected one
    │   └── ModelCapabilityError            the wrong kind: cannot embed, has no chat template, ...
    ├── EngineError                         llama.cpp or a remote server failed while computing
    │   ├── ModelChangedError               the model's file was written to while it was in use
    │   └── RemoteError                     a remote server failed, or sent what is no answer
    │       ├── AnswerCutError              it was lost in the middle of an answer
    │       ├── RemoteBusyError             it is overloaded; also a QueueFullError
    │       ├── RemoteTimeoutError          it sent nothing for too long
    │       └── RemoteUnavailableError      it cannot be reached or was lost; also a ModelError
    └── StoreError                          the cache database cannot be used
        └── StoreVersionError               it was written by a newer asteady

Every class takes one argument, the message, so that an exception can be copied: each caller that
waited for a failed computation gets an exception object of its own, with the original as its
``__cause__``.
"""

from asteady._base.public import public


@public
class AsteadyError(Exception):
    """Root of everything that asteady raises on purpose."""

    def __str__(self) -> str:
        # A path that is not valid UTF-8 is in the message as lone surrogates, which cannot be
        # printed.
        return super().__str__().encode("utf-8", "backslashreplace").decode()


@public
class InvalidRequestError(AsteadyError, ValueError):
    """An argument of a request is not allowed; the message names it, its value and what is."""


@public
class PromptTooLongError(InvalidRequestError):
    """The prompt has more tokens than the model's context has room for."""


@public
class SettingsError(AsteadyError, ValueError):
    """A setting is not allowed; the message names it, its value and what is."""


@public
class IncompleteAnswerError(AsteadyError, ValueError):
    """An answer with a form (schema, choices, ...) was cut by `max_new_tokens`, incomplete, or the
    model ended it in its reasoning.

    `text` and `reasoning` are what there was of it, of `completion_tokens` tokens after a prompt of
    `prompt_tokens`. It is not stored.
    """

    text: str = ""
    reasoning: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


@public
class CacheMissError(AsteadyError, LookupError):
    """The call said ``cache="only"`` and the answer is not in the cache."""


@public
class QueueFullError(AsteadyError):
    """As many requests as `max_pending` allows are already waiting for a worker; or the server of a
    remote model is overloaded, which is a `RemoteBusyError`."""


@public
class SessionError(AsteadyError, RuntimeError):
    """The session is in the wrong state for this call."""


@public
class SessionNotOpenError(SessionError):
    """The session has not been opened yet."""


@public
class SessionClosedError(SessionError):
    """The session was closed, before the call or while it waited."""


@public
class ModelError(AsteadyError):
    """The model is unavailable, or cannot do what the request asks for."""


@public
class ModelNotFoundError(ModelError):
    """The model reference leads to no file."""


@public
class ModelFormatError(ModelError):
    """The file is not a complete GGUF that llama.cpp can read, or not the one it should be."""


@public
class ModelCapabilityError(ModelError):
    """The model is of the wrong kind for this request."""


@public
class EngineError(AsteadyError):
    """llama.cpp failed while it computed an answer, or computed NaN or infinity; or the server of a
    remote model failed, which is a `RemoteError`."""


@public
class ModelChangedError(EngineError):
    """The model's file was written to while it was identified, loaded or in use; or the server of a
    remote model has another one.

    What was being computed from it is dropped. The next call identifies it anew, so call again.
    """


@public
class RemoteError(EngineError):
    """The server of a remote model failed, or sent what is no answer."""


@public
class AnswerCutError(RemoteError):
    """The server of a remote model was lost in the middle of an answer that somebody has begun to
    read. If nobody has, the answer is asked for again, and this error is of the last try."""


@public
class RemoteBusyError(RemoteError, QueueFullError):
    """The server of a remote model is overloaded, or not ready yet: its status was 429 or 503.

    It asks to wait `retry_after_s` seconds, 0.0 if it does not say.
    """

    retry_after_s: float = 0.0


@public
class RemoteTimeoutError(RemoteError):
    """The server of a remote model sent nothing for `timeout_s` seconds, or its status was 504."""


@public
class RemoteUnavailableError(RemoteError, ModelError):
    """The server of a remote model cannot be reached, or the connection was lost before an answer
    began."""


@public
class StoreError(AsteadyError):
    """The cache database cannot be used."""


@public
class StoreVersionError(StoreError):
    """The cache database was written by a newer version of asteady."""
