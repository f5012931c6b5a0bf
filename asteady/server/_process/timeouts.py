"""How long clients may take."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class Timeouts:
    """How long a client may take, in seconds.

    `head_s` is for the head of a request, from its first byte or from the connection's beginning;
    `body_s` for a body in all; `send_s` for taking something of an answer while the buffers to it
    are full. `idle_s` is how long uvicorn keeps a connection without a request.
    """

    head_s: float
    body_s: float
    send_s: float
    idle_s: int
