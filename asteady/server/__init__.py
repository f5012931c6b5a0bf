"""For web apps: the OpenAI-compatible API."""

from typing import TYPE_CHECKING

from asteady._base.public import lazy_exports
from asteady._base.validation import needs

if TYPE_CHECKING:
    from asteady.server._openai.app import openai as openai

needs("starlette", extra="server")

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "asteady.server._openai.app": "openai",
    },
)
