"""Server-sent events, as they arrive in pieces."""

from __future__ import annotations

# A whole answer with its log probabilities fits.
MAX_EVENT_BYTES = 64 * 2**20


class EventDecoder:
    """From the bytes of a stream to the data of its events."""

    def __init__(self, most_bytes: int = MAX_EVENT_BYTES) -> None:
        self._most_bytes = most_bytes
        self._rest = b""
        self._lines: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The data of the events that end in this piece.

        Raises:
            ValueError: an event is too large.
        """
        found: list[bytes] = []
        # A line that arrives in many pieces is searched for its end once.
        end = data.rfind(b"\n") + 1
        if not end:
            self._rest += data
        else:
            lines = (self._rest + data[:end]).split(b"\n")
            self._rest = data[end:]
            for line in lines[:-1]:
                line = line.removesuffix(b"\r")
                if line.startswith(b"data:"):
                    self._lines.append(line[5:].removeprefix(b" "))
                    self._size += len(line)
                elif not line and self._lines:
                    found.append(b"\n".join(self._lines))
                    self._lines, self._size = [], 0
        if self._size + len(self._rest) > self._most_bytes:
            raise ValueError(f"an event has more than {self._most_bytes:,} bytes")
        return found
