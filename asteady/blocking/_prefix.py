"""A declared prefix, without await."""

from __future__ import annotations

from asteady._base.requests import DeclaredPrefix
from asteady._session.generation import Prefix as AsyncioPrefix
from asteady.blocking._calls import Calls
from asteady.blocking._generating_calls import GeneratingCalls
from asteady.blocking._portal import Portal


class Prefix(GeneratingCalls):
    """The calls that generate, with a text before each prompt; see `asteady.Prefix`.

    Usable as long as the session is, by any thread.
    """

    def __init__(self, calls: Calls, text: str) -> None:
        DeclaredPrefix.of(text)
        self.text = text
        self._calls = calls

    def __repr__(self) -> str:
        return f"<blocking Prefix of {len(self.text)} characters>"

    def _portal(self) -> Portal:
        return self._calls._portal()

    async def _session(self) -> AsyncioPrefix:
        session = await self._calls._session()
        whole = self._calls._recaller
        assert whole is not None
        recaller = self._recaller
        if recaller is None or recaller.session is not whole.session:
            self._prefix = session.prefix(self.text)
            self._recaller = whole.under(self._prefix)
        return self._prefix
