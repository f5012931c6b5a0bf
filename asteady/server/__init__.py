"""For web apps: the OpenAI-compatible API."""

from typing import TYPE_CHECKING

from asteady._base.public import lazy_exports

if TYPE_CHECKING:
    from asteady.server._openai.app import openai as openai

try:
    import starlette  # noqa: F401
except ImportError as exc:
    raise ImportError(
        'asteady.server needs starlette: python -m pip install "asteady[server]"'
    ) from exc

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "asteady.server._openai.app": "openai",
    },
)
