"""Bulk work on Dask: embed and generate for collections that no memory holds.

::

    from dask.distributed import Client

    from asteady.operate.dask import embed

    client = Client("tcp://scheduler:8786")
    for vector in embed(client, (line.strip() for line in open("texts.txt"))):
        ...
"""

try:
    import distributed  # noqa: F401
except ImportError as exc:
    raise ImportError(
        'asteady.operate.dask needs dask.distributed: python -m pip install "asteady[dask]"'
    ) from exc

from asteady.operate.dask._answers import Answers
from asteady.operate.dask._calls import embed, generate
from asteady.operate.dask._tasks import Errors

__all__ = ["Answers", "Errors", "embed", "generate"]
