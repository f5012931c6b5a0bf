"""The session as a dependency of FastAPI."""

from typing import Annotated, TypeAlias

try:
    from fastapi import Depends
except ImportError as exc:
    raise ImportError("SessionDep needs FastAPI: python -m pip install fastapi") from exc

from asteady._session.session import Session
from asteady.server._web.dependency import get_session

SessionDep: TypeAlias = Annotated[Session, Depends(get_session)]
"""The type of a parameter that is the app's session. In tests, `app.dependency_overrides` has
another session for `get_session`."""
