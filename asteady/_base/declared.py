"""What prompts are said to begin with: pure, and in no key, as it changes no answer."""

from __future__ import annotations

import attrs

from asteady._base.errors import InvalidRequestError
from asteady._base.requests import GenerateRequest


@attrs.frozen
class DeclaredPrefix:
    """The content of a first message with the role "system", or what a raw prompt begins with.

    None stands for the whole prompt, whatever it is.
    """

    text: str | None

    @classmethod
    def of(cls, text: object) -> DeclaredPrefix:
        """Raises:
        InvalidRequestError: it is no str, or empty.
        """
        if not isinstance(text, str) or not text:
            raise InvalidRequestError(
                f"prefix({text!r}) is not allowed: a str of at least one character is needed"
            )
        # The same checks as for a prompt, such as lone surrogates, and a plain str afterwards.
        return cls(GenerateRequest.of(text).prompt)

    def before(self, request: GenerateRequest) -> GenerateRequest:
        """The request with the prefix before its prompt or messages."""
        if self.text is None:
            return request
        if request.raw:
            return attrs.evolve(request, prompt=self.text + (request.prompt or ""))
        asked = request.messages if request.prompt is None else (("user", request.prompt),)
        return attrs.evolve(request, prompt=None, messages=(("system", self.text), *asked))
