"""Task families, a file for each kind of task; importing this package registers them all."""

from . import chat, code, data, explain, poetry, work

__all__ = ["chat", "code", "data", "explain", "poetry", "work"]
