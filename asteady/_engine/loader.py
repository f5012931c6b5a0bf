"""The fingerprint of an engine, computed without loading weights, nor llama.cpp when it is known.

Everything that can change a byte of an answer is in it: the model file (and with it the chat
template), llama.cpp's libraries and the CPU features that they use, and the constants below.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from asteady._engine.build import build_of
from asteady._engine.models.resolve import ModelFile
from asteady._engine.plan import PIECE_TOKENS, EngineOptions, Setup, setup_of

__all__ = ["EngineOptions", "fingerprint_of"]

# Raise it when asteady changes how it tokenises, samples, detokenises, stops or pools.
_WAYS_VERSION = 1


def fingerprint_of(
    model: ModelFile, options: EngineOptions, cache_dir: Path, setup: Setup | None = None
) -> str:
    """64 hexadecimal digits. Blocks: reads small files; the first time that this build meets this
    model it loads and probes it, unless `setup` says how the engine is set up.

    Raises:
        EngineError: llama-cpp-python is not installed, or failed in the probe.
        ModelFormatError: llama.cpp cannot load the file.
    """
    if setup is None:
        setup = setup_of(model, options, cache_dir)
    described = json.dumps(
        {
            "model": model.sha256,
            "build": build_of(cache_dir),
            "context_tokens": options.context_tokens,
            "width": setup.width,
            "repack": setup.repack,
            "piece_tokens": PIECE_TOKENS,
            "flash_attention": False,
            "kv_unified": False,
            "ways": _WAYS_VERSION,
            **({"gpu_layers": options.gpu_layers} if options.gpu_layers else {}),
        },
        sort_keys=True,
    )
    return hashlib.sha256(described.encode()).hexdigest()
