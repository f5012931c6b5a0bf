"""What a fingerprint is the digest of."""

from __future__ import annotations

import hashlib
import json

import attrs

# Raise it when asteady changes how it tokenises, samples, detokenises, stops or pools.
WAYS_VERSION = 4


@attrs.frozen(kw_only=True)
class FingerprintParts:
    """Everything but the request that can change a bit of an engine's answers.

    `model` is the SHA-256 of the GGUF file, and for a model in several files that of their
    digests. `libraries`, `version` and `system` are of llama.cpp: the SHA-256 of its libraries,
    the versions of llama-cpp-python and llama.cpp, and the features of the CPU that the build
    uses. `repack` says whether the weights are repacked for this CPU, `thinking` whether reasoning
    is cut out of the text, and `ways` counts asteady's own ways of computing. `files` are the
    digests of a model in several files, for people: `model` has them already.

    Keys depend on both digests: neither a name nor a value may change here, but by raising `ways`.
    """

    model: str
    libraries: str
    version: str
    system: str
    context_tokens: int
    repack: bool
    piece_tokens: int
    gpu_layers: int = 0
    thinking: bool = False
    flash_attention: bool = False
    kv_unified: bool = False
    ways: int = WAYS_VERSION
    files: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """The fingerprint, 64 hexadecimal digits."""
        build = {"libraries": self.libraries, "version": self.version, "system": self.system}
        return _digest({**self._portable(), "build": build, "repack": self.repack})

    @property
    def portable_digest(self) -> str:
        """The fingerprint without what depends on the CPU: its features, the libraries, which are
        compiled for it, and whether weights are repacked for it. Never equal to a `digest`."""
        return _digest({**self._portable(), "build": {"version": self.version}})

    def _portable(self) -> dict[str, object]:
        # Fields that came later are left out where they change nothing: keys stay as they were.
        return {
            "model": self.model,
            "context_tokens": self.context_tokens,
            "piece_tokens": self.piece_tokens,
            "flash_attention": self.flash_attention,
            "kv_unified": self.kv_unified,
            "ways": self.ways,
            **({"gpu_layers": self.gpu_layers} if self.gpu_layers else {}),
            **({"thinking": 1} if self.thinking else {}),
        }


def _digest(described: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
