"""The published model that tests use where its package is installed; they are skipped elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from asteady._engine.models.catalogue import BUNDLED

_SMOLLM2 = BUNDLED["smollm2"]

needs_smollm2 = pytest.mark.skipif(
    _SMOLLM2.find() is None, reason=f"the model smollm2 is not installed: {_SMOLLM2.command}"
)


def smollm2_file() -> Path:
    """SmolLM2-135M-Instruct, a chat model of 98 MB, where it lies; skips the test without it."""
    path = _SMOLLM2.find()
    if path is None:
        pytest.skip(needs_smollm2.kwargs["reason"])
    return path
