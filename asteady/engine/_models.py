"""Where a model comes from: the built-in files, MiniLM, or a path to a .gguf file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import attrs

from asteady._errors import ModelCapabilityError, ModelFormatError, ModelNotFoundError
from asteady.engine._gguf import GgufHeader, Kind, read_header
from asteady.engine._remember import recall, remember

_BUILTIN = {"generation": "generate.gguf", "embedding": "embed.gguf"}
_KNOWN = 'known references are "builtin", "minilm" (for embeddings) and the path of a .gguf file'
_FACTS_FILE = "models.json"
# Raise it when what is remembered of a file, or the check of its header, changes.
_FACTS_VERSION = 2


@attrs.frozen(kw_only=True)
class ModelFile:
    """A complete GGUF file on this machine, and the reference that led to it."""

    path: Path
    reference: str
    sha256: str
    size_bytes: int
    header: GgufHeader


def resolve_model(reference: str, *, kind: Kind, cache_dir: Path) -> ModelFile:
    """Find the file that a model reference names, and check it. Blocks: it reads the whole file
    the first time, to compute its digest, which is then remembered by path, size and time.

    `kind` is what the model is wanted for; "builtin" names another file for each.

    Raises:
        ModelNotFoundError: the reference leads to no file.
        ModelFormatError: the file is not a complete GGUF file.
        ModelCapabilityError: the model is of the other kind.
    """
    path = _locate(reference, kind, cache_dir)
    try:
        status = path.stat()
        if not path.is_file():
            raise ModelFormatError(f"{path} is not a file: name a .gguf file")
        file = _checked(path, reference, status.st_size, status.st_mtime_ns, cache_dir)
    except FileNotFoundError:
        raise ModelNotFoundError(f"there is no model file {path}; {_KNOWN}") from None
    except OSError as exc:
        raise ModelNotFoundError(f"the model file {path} cannot be read: {exc}") from exc
    _refuse_other_kind(file, kind)
    return file


def _locate(reference: str, kind: Kind, cache_dir: Path) -> Path:
    if reference == "builtin":
        return Path(__file__).parent.parent / "models" / _BUILTIN[kind]
    if reference == "minilm":
        if kind == "generation":
            raise ModelCapabilityError(
                'the model "minilm" embeds text and cannot generate any; set generation_model to '
                '"builtin" or the path of a .gguf file'
            )
        from asteady.engine._minilm import convert_minilm

        return convert_minilm(cache_dir)
    if reference.startswith("hf:"):
        raise ModelNotFoundError(f"{reference!r} is not a known model reference: {_KNOWN}")
    return Path(reference).expanduser().absolute()


def _checked(
    path: Path, reference: str, size_bytes: int, mtime_ns: int, cache_dir: Path
) -> ModelFile:
    facts = cache_dir / _FACTS_FILE
    key = f"{path.resolve()} size={size_bytes} mtime_ns={mtime_ns} v{_FACTS_VERSION}"
    try:
        known = recall(facts, key)
        sha256 = known["sha256"]
        header = GgufHeader(
            **{**known["header"], "matrix_types": tuple(known["header"]["matrix_types"])}
        )
        if not isinstance(sha256, str) or len(sha256) != 64:
            raise ValueError(sha256)
    except (TypeError, KeyError, ValueError):
        header = read_header(path)
        with path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        remember(facts, key, {"sha256": sha256, "header": attrs.asdict(header)})
    return ModelFile(
        path=path, reference=reference, sha256=sha256, size_bytes=size_bytes, header=header
    )


def _refuse_other_kind(file: ModelFile, kind: Kind) -> None:
    header = file.header
    if header.kind == kind == "embedding" and header.pooling not in ("mean", "cls", "last"):
        raise ModelCapabilityError(
            f"{file.path} cannot embed: its metadata does not say how to make one vector of a "
            f"text ({header.architecture}.pooling_type is {header.pooling}; mean, cls or last is "
            "needed)"
        )
    if header.kind == kind:
        return
    if kind == "embedding":
        raise ModelCapabilityError(
            f"{file.path} is a generation model ({header.architecture}) and cannot embed; set "
            'embedding_model to "builtin", "minilm" or the path of an embedding model'
        )
    raise ModelCapabilityError(
        f"{file.path} is an embedding model ({header.architecture}) and cannot generate; set "
        'generation_model to "builtin" or the path of a generation model'
    )
