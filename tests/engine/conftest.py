from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from asteady._base.requests import Kind
from asteady._engine.api import Engine
from asteady._engine.llama.engine import LlamaEngine
from asteady._engine.loader import load_engine
from asteady._engine.models.resolve import resolve_model
from asteady._engine.plan import EngineOptions, Setup
from asteady._engine.pool import Pool
from tests.engine.gated import GatedEngine
from tests.engine.pooled import MakePool, OpenPool
from tests.gguf_files import write_bert, write_llama


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of small random models; also serves as their cache directory."""
    directory = tmp_path_factory.mktemp("models")
    write_llama(directory / "gpt2.gguf")
    write_llama(directory / "spm.gguf", vocabulary="spm")
    write_llama(directory / "plain.gguf", template=None, add_bos=False)
    write_llama(directory / "short.gguf", context=64)
    write_bert(directory / "bert.gguf")
    return directory


def load(
    models: Path, name: str, options: EngineOptions | None = None, *, setup: Setup | None = None
) -> LlamaEngine:
    """Load one of the small models; without a probe and of width 1, unless told otherwise."""
    kind: Kind = "embedding" if "bert" in name else "generation"
    file = resolve_model(str(models / name), kind=kind, cache_dir=models)
    return load_engine(file, options or EngineOptions(probe=False), models, setup)


@pytest.fixture(scope="module")
def gpt2(models: Path) -> Iterator[LlamaEngine]:
    engine = load(models, "gpt2.gguf")
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def spm(models: Path) -> Iterator[LlamaEngine]:
    engine = load(models, "spm.gguf")
    yield engine
    engine.close()


@pytest.fixture(params=["gpt2", "spm"])
def either(request: pytest.FixtureRequest) -> LlamaEngine:
    """A model of each kind of vocabulary."""
    engine: LlamaEngine = request.getfixturevalue(request.param)
    return engine


@pytest.fixture(scope="module")
def plain(models: Path) -> Iterator[LlamaEngine]:
    engine = load(models, "plain.gguf")
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def bert(models: Path) -> Iterator[LlamaEngine]:
    engine = load(models, "bert.gguf")
    yield engine
    engine.close()


@pytest.fixture
async def open_pool() -> AsyncIterator[OpenPool]:
    """Makes pools, and closes them even if the test fails."""
    async with AsyncExitStack() as stack:

        def open_pool(engine: Engine, workers: int, max_pending: int) -> Pool:
            pool = Pool(engine, workers, max_pending)
            stack.push_async_callback(pool.aclose)
            return pool

        yield open_pool


@pytest.fixture
def engine() -> GatedEngine:
    """An engine with gates, instead of the fake one that a session has."""
    return GatedEngine()


@pytest.fixture
async def make_pool(engine: GatedEngine, open_pool: OpenPool) -> AsyncIterator[MakePool]:
    """Makes pools over the engine and closes them."""

    def make_pool(workers: int = 1, max_pending: int = 100, width: int = 1) -> Pool:
        engine.width = width
        return open_pool(engine, workers, max_pending)

    yield make_pool
    engine.open()
