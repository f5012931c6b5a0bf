"""Where a model comes from: the built-in files, MiniLM, the hub, or a path to a .gguf file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import attrs

from asteady._base.errors import ModelCapabilityError, ModelFormatError, ModelNotFoundError
from asteady._base.files import recall, remember
from asteady._engine.models.gguf import GgufHeader, Kind, read_header
from asteady._engine.models.hub import discard, part_names, resolve_hub

BUILTIN: dict[Kind, str] = {"generation": "generate.gguf", "embedding": "embed.gguf"}
_SUMS = "SHA256SUMS"
_KNOWN = (
    'known references are "builtin", "minilm" (for embeddings), hf:owner/repo/file.gguf and the '
    "path of a .gguf file"
)
_FACTS_FILE = "models.json"
# Raise it when what is remembered of a file, or the check of its header, changes.
_FACTS_VERSION = 3


@attrs.frozen(kw_only=True)
class ModelFile:
    """A complete GGUF file on this machine, and the reference that led to it.

    Of a model that is split over several files, `path` is the first, `size_bytes` is all of them,
    and `sha256` the digest of their digests.
    """

    path: Path
    reference: str
    sha256: str
    size_bytes: int
    header: GgufHeader


@attrs.frozen(kw_only=True)
class _Found:
    """Where the parts of a model lie, and the digest that each must have, if that is known."""

    parts: tuple[Path, ...]
    sha256: tuple[str | None, ...]
    remedy: str = ""
    discard: Callable[[Path], object] | None = None


def resolve_model(reference: str, *, kind: Kind, cache_dir: Path) -> ModelFile:
    """Find the file that a model reference names, and check it. Blocks: it reads the whole file
    the first time, to compute its digest, which is then remembered by path, size and time. A model
    of the hub that is not here yet is pulled.

    `kind` is what the model is wanted for; "builtin" names another file for each.

    Raises:
        ModelNotFoundError: the reference leads to no file.
        ModelFormatError: the file is not a complete GGUF file, or not the one that it should be.
        ModelCapabilityError: the model is of the other kind.
    """
    file = inspect_model(reference, kind=kind, cache_dir=cache_dir)
    _refuse_other_kind(file, kind)
    return file


def inspect_model(reference: str, *, kind: Kind, cache_dir: Path) -> ModelFile:
    """As `resolve_model`, but a model of the other kind is welcome."""
    found = _locate(reference, kind, cache_dir)
    path = found.parts[0]
    try:
        if path.exists() and not path.is_file():
            raise ModelFormatError(f"{path} is not a file: name a .gguf file")
        return _checked(found, reference, cache_dir)
    except FileNotFoundError as exc:
        missing = Path(exc.filename or path)
        what = "model file" if missing == path else f"part of the model {path}:"
        raise ModelNotFoundError(f"there is no {what} {missing}; {_KNOWN}") from None
    except OSError as exc:
        raise ModelNotFoundError(f"the model file {path} cannot be read: {exc}") from exc


def _locate(reference: str, kind: Kind, cache_dir: Path) -> _Found:
    if reference == "builtin":
        return _builtin(BUILTIN[kind])
    if reference == "minilm":
        if kind == "generation":
            raise ModelCapabilityError(
                'the model "minilm" embeds text and cannot generate any; set generation_model to '
                '"builtin" or the path of a generation model'
            )
        from asteady._engine.models.minilm import convert_minilm

        return _Found(parts=(convert_minilm(cache_dir),), sha256=(None,))
    if reference.startswith("hf:"):
        model = resolve_hub(reference, cache_dir)
        return _Found(
            parts=model.files,
            sha256=model.sha256,
            remedy=f"it was removed; pull it again: asteady models pull {reference}",
            discard=discard,
        )
    path = Path(reference).expanduser().absolute()
    names = part_names(path.name)
    if path.name != names[0]:
        raise ModelFormatError(f"{path} is a part of a model: name the first, {names[0]}")
    parts = tuple(path.with_name(name) for name in names)
    return _Found(parts=parts, sha256=(None,) * len(parts))


def _builtin(name: str) -> _Found:
    path = Path(__file__).parents[2] / "models" / name
    remedy = "reinstall asteady: pip install --force-reinstall --no-deps asteady"
    try:
        lines = path.with_name(_SUMS).read_text(encoding="ascii").splitlines()
        wanted = {line.split()[1]: line.split()[0] for line in lines if line.strip()}[name]
    except (OSError, IndexError, KeyError, ValueError):
        raise ModelFormatError(
            f"{path.with_name(_SUMS)} does not say which {name} is the right one: {remedy}"
        ) from None
    return _Found(parts=(path,), sha256=(wanted,), remedy=remedy)


def _checked(found: _Found, reference: str, cache_dir: Path) -> ModelFile:
    checked = [
        _facts(part, wanted, found, cache_dir)
        for part, wanted in zip(found.parts, found.sha256, strict=True)
    ]
    digests = [digest for digest, _ in checked]
    headers = [header for _, header in checked]
    types = {name for header in headers for name in header.matrix_types}
    return ModelFile(
        path=found.parts[0],
        reference=reference,
        sha256=digests[0] if len(digests) == 1 else _sha256_of(digests),
        size_bytes=sum(part.stat().st_size for part in found.parts),
        header=attrs.evolve(headers[0], matrix_types=tuple(sorted(types))),
    )


def _facts(
    path: Path, wanted: str | None, found: _Found, cache_dir: Path
) -> tuple[str, GgufHeader]:
    """The digest and the header of a file, checked once and then remembered."""
    facts = cache_dir / _FACTS_FILE
    status = path.stat()
    key = f"{path.resolve()} size={status.st_size} mtime_ns={status.st_mtime_ns} v{_FACTS_VERSION}"
    known = recall(facts, key)
    try:
        sha256 = known["sha256"]
        header = GgufHeader(
            **{**known["header"], "matrix_types": tuple(known["header"]["matrix_types"])}
        )
        if not isinstance(sha256, str) or len(sha256) != 64:
            raise ValueError(sha256)
        if wanted in (None, sha256):
            return sha256, header
    except (TypeError, KeyError, ValueError):
        pass
    if wanted is None:
        # The header first: a file that is no model at all need not be read to its end.
        header = read_header(path)
        sha256 = _digest(path)
    else:
        # Not a byte of a file that is not the right one is read as a model.
        sha256 = _digest(path)
        if sha256 != wanted:
            if found.discard is not None:
                found.discard(path)
            raise ModelFormatError(
                f"{path} is not the file that it should be (sha256 {sha256}, expected {wanted}): "
                f"{found.remedy}"
            )
        header = read_header(path)
    remember(facts, key, {"sha256": sha256, "header": attrs.asdict(header)})
    return sha256, header


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sha256_of(digests: list[str]) -> str:
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


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
