"""Model references to checked files: built-in, MiniLM, Hugging Face hub, or a path."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, overload

import attrs

from asteady._base.activity import Activities, Running
from asteady._base.errors import (
    ModelCapabilityError,
    ModelChangedError,
    ModelFormatError,
    ModelNotFoundError,
)
from asteady._base.files import Identity, absolute_path, recall, remember, settled_identity
from asteady._base.requests import Kind
from asteady._base.settings import REMOTE_PREFIX
from asteady._engine.models.catalogue import BUNDLED
from asteady._engine.models.gguf import GgufHeader, read_header
from asteady._engine.models.hub import discard, parse_reference, part_names, resolve_hub

BUILTIN_FOLDER = Path(__file__).parents[2] / "models"
BUILTIN: dict[Kind, str] = {"generation": "generate.gguf", "embedding": "embed.gguf"}
_SUMS = "SHA256SUMS"
_KNOWN = (
    'known references are "builtin", "smollm2", "minilm" (for embeddings), hf:owner/repo/file.gguf,'
    " openai+http://host:8000/v1#name and the path of a .gguf file"
)
# What a digest is computed of at once. After each piece the thread waits for the interpreter's
# lock, for up to 5 ms while another thread imports llama.cpp.
_CHUNK_BYTES = 2**23
_FACTS_FILE = "models.json"
# Raise it when what a field of a header means (the thinking tags too), or its check, changes.
_FACTS_VERSION = 5


@attrs.frozen(kw_only=True)
class FoundPart:
    """One file of a model, which may not have been read whole. A later write changes `identity`."""

    path: Path
    identity: Identity


@attrs.frozen(kw_only=True)
class ModelPart(FoundPart):
    """One file of a model. `identity` is that of the file whose bytes have this digest."""

    sha256: str


@attrs.frozen(kw_only=True)
class FoundModel:
    """A model on this machine, and the reference that named it; it may not have been read whole.

    Bytes of a path that are not valid UTF-8 are escaped in `reference`, which answers carry.
    For a model in several files, `path` is the first one, and `size_bytes` their sum. `OpenModel`
    opens them again, and refuses others.
    """

    path: Path
    parts: tuple[FoundPart, ...]
    reference: str
    size_bytes: int
    header: GgufHeader


@attrs.frozen(kw_only=True)
class ModelFile(FoundModel):
    """A model whose digest is known: for a model in several files, that of their digests."""

    parts: tuple[ModelPart, ...]
    sha256: str


@attrs.frozen(kw_only=True)
class _Located:
    """The files of a model, the digest that each must have (if known), and what to do about a
    file with another digest."""

    parts: tuple[Path, ...]
    sha256: tuple[str | None, ...]
    remedy: str = ""
    discard: Callable[[Path], object] | None = None


def check_reference(reference: str) -> None:
    """Refuse a reference that is no known name, and the path of no file. Reads no file.

    Raises:
        ModelNotFoundError: it is one.
    """
    if reference in ("builtin", "minilm") or reference in BUNDLED:
        return
    if reference.startswith("hf:"):
        parse_reference(reference)
    elif not (path := _absolute(reference)).is_file():
        raise ModelNotFoundError(f"there is no model file {path}; {_KNOWN}")


def resolve_model(
    reference: str,
    *,
    kind: Kind,
    cache_dir: Path,
    builtin_folder: Path = BUILTIN_FOLDER,
    activities: Activities | None = None,
    reading: Callable[[], None] | None = None,
) -> ModelFile:
    """Find the files of a model reference, and check them. Downloads a model of the hub if needed.

    Blocks. A file is read whole once, to compute its digest, which is then remembered by path and
    `identity`. `kind` chooses one of the two models that "builtin" names. `reading` is called
    before a file is read that `find_model` finds.

    Raises:
        ModelChangedError: a file is being written to.
        ModelNotFoundError: there is no such file, or it cannot be read or downloaded.
        ModelFormatError: it is not a complete GGUF file, or not the expected one.
        ModelCapabilityError: the model is of the other kind.
    """
    file = inspect_model(
        reference,
        kind=kind,
        cache_dir=cache_dir,
        builtin_folder=builtin_folder,
        activities=activities,
        reading=reading,
    )
    _check_kind(file, kind)
    return file


def find_model(
    reference: str, *, kind: Kind, cache_dir: Path, builtin_folder: Path = BUILTIN_FOLDER
) -> FoundModel | None:
    """As `resolve_model`, but reads headers only: a `ModelFile` if its digest is remembered.

    None if a digest is expected that is not remembered: no byte of the file may be parsed before
    the digest has been computed.
    """
    found = _locate(reference, kind, cache_dir, builtin_folder)
    with _explained(found.parts[0]):
        checked = []
        for part, expected in zip(found.parts, found.sha256, strict=True):
            with part.open("rb") as stream:
                known = _recalled(part, expected, cache_dir, stream)
                if known is None and expected is not None:
                    return None
                checked.append(known or _unread(part, stream))
    model = _joined(found, reference, checked)
    _check_kind(model, kind)
    return model


def _check_kind(model: FoundModel, kind: Kind) -> None:
    header = model.header
    if header.kind != kind:
        raise wrong_kind(f"{model.path} ({header.architecture})", kind)
    if kind == "embedding" and header.pooling not in ("mean", "cls", "last"):
        raise ModelCapabilityError(
            f"{model.path} cannot embed: {header.architecture}.pooling_type in its metadata is "
            f"{header.pooling}, and must be mean, cls or last"
        )


def inspect_model(
    reference: str,
    *,
    kind: Kind,
    cache_dir: Path,
    builtin_folder: Path = BUILTIN_FOLDER,
    activities: Activities | None = None,
    reading: Callable[[], None] | None = None,
) -> ModelFile:
    """As `resolve_model`, but also for a model of the other kind."""
    found = _locate(reference, kind, cache_dir, builtin_folder)
    with _explained(found.parts[0]):
        checked = [
            _facts(part, expected, found, cache_dir, activities or Activities(), reading)
            for part, expected in zip(found.parts, found.sha256, strict=True)
        ]
    return _joined(found, reference, checked)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Errors of the file system within the block are errors of the model at this path."""
    try:
        if path.exists() and not path.is_file():
            raise ModelFormatError(f"{path} is not a file: name a .gguf file")
        yield
    except FileNotFoundError as exc:
        missing = Path(exc.filename or path)
        what = "model file" if missing == path else f"file of the model {path}:"
        raise ModelNotFoundError(f"there is no {what} {missing}; {_KNOWN}") from None
    except OSError as exc:
        raise ModelNotFoundError(f"the model file {path} cannot be read: {exc}") from exc


def _locate(reference: str, kind: Kind, cache_dir: Path, builtin_folder: Path) -> _Located:
    if reference == "builtin":
        return _locate_builtin(builtin_folder / BUILTIN[kind])
    if reference == "minilm":
        if kind == "generation":
            raise wrong_kind('the model "minilm"', kind)
        from asteady._engine.models.minilm import convert_minilm

        return _Located(parts=(convert_minilm(cache_dir),), sha256=(None,))
    if reference in BUNDLED:
        bundled = BUNDLED[reference]
        return _Located(
            parts=(bundled.locate(reference),),
            sha256=(bundled.sha256,),
            remedy=bundled.reinstall,
        )
    if reference.startswith("hf:"):
        model = resolve_hub(reference, cache_dir)
        return _Located(
            parts=model.files,
            sha256=model.sha256,
            remedy=f"it was removed; download it again: asteady models pull {reference}",
            discard=discard,
        )
    if reference.startswith(REMOTE_PREFIX):
        raise ModelNotFoundError(
            f"the model {reference} is on a server, and has no file here; what the server says of "
            f"it: asteady fingerprint --model '{reference}'"
        )
    path = _absolute(reference)
    names = part_names(path.name)
    if path.name != names[0]:
        raise ModelFormatError(f"{path} is one part of a model: name the first one, {names[0]}")
    parts = (path, *(path.with_name(name) for name in names[1:]))
    return _Located(parts=parts, sha256=(None,) * len(parts))


def _absolute(reference: str) -> Path:
    try:
        return absolute_path(reference)
    except ValueError as exc:
        raise ModelNotFoundError(f"there is no model file {reference!r}: {exc}; {_KNOWN}") from None


def _locate_builtin(path: Path) -> _Located:
    remedy = "reinstall asteady: pip install --force-reinstall --no-deps asteady"
    try:
        lines = path.with_name(_SUMS).read_text(encoding="ascii").splitlines()
        expected = {line.split()[1]: line.split()[0] for line in lines if line.strip()}[path.name]
    except (FileNotFoundError, IndexError, KeyError, ValueError):
        raise ModelFormatError(
            f"{path.with_name(_SUMS)} has no digest of {path.name}: {remedy}"
        ) from None
    except OSError as exc:
        raise ModelNotFoundError(f"{path.with_name(_SUMS)} cannot be read: {exc}") from exc
    return _Located(parts=(path,), sha256=(expected,), remedy=remedy)


@overload
def _joined(
    found: _Located, reference: str, checked: Sequence[tuple[ModelPart, GgufHeader]]
) -> ModelFile: ...


@overload
def _joined(
    found: _Located, reference: str, checked: Sequence[tuple[FoundPart, GgufHeader]]
) -> FoundModel: ...


def _joined(
    found: _Located, reference: str, checked: Sequence[tuple[FoundPart, GgufHeader]]
) -> FoundModel:
    parts, headers = zip(*checked, strict=True)
    types = {name for header in headers for name in header.matrix_types}
    model = FoundModel(
        path=found.parts[0],
        parts=parts,
        reference=os.fsencode(reference).decode("utf-8", "backslashreplace"),
        size_bytes=sum(part.identity.size_bytes for part in parts),
        header=attrs.evolve(
            headers[0],
            matrix_types=tuple(sorted(types)),
            parameters=sum(header.parameters for header in headers),
        ),
    )
    digests = [part.sha256 for part in parts if isinstance(part, ModelPart)]
    if len(digests) < len(parts):
        return model
    joined = hashlib.sha256("\n".join(digests).encode()).hexdigest()
    return ModelFile(
        **attrs.asdict(model, recurse=False),
        sha256=digests[0] if len(digests) == 1 else joined,
    )


def _recalled(
    path: Path, expected: str | None, cache_dir: Path, stream: BinaryIO
) -> tuple[ModelPart, GgufHeader] | None:
    """What is remembered of the file that is open, unless another digest is expected."""
    now = Identity.of(os.fstat(stream.fileno()))
    known = _restored(recall(cache_dir / _FACTS_FILE, _facts_key(path, now)))
    if known is None or expected not in (None, known[0]):
        return None
    return ModelPart(path=path, sha256=known[0], identity=now), known[1]


def _unread(path: Path, stream: BinaryIO) -> tuple[FoundPart, GgufHeader]:
    descriptor = stream.fileno()
    settled = settled_identity(descriptor)
    return FoundPart(path=path, identity=settled), read_header(path, descriptor)


def _facts(
    path: Path,
    expected: str | None,
    found: _Located,
    cache_dir: Path,
    activities: Activities,
    reading: Callable[[], None] | None,
) -> tuple[ModelPart, GgufHeader]:
    """The identity, digest and header of a file: remembered, or computed and checked."""
    with path.open("rb") as stream:
        # All that is said of the file is said of the one that is open now.
        known = _recalled(path, expected, cache_dir, stream)
        if known is not None:
            return known
        descriptor = stream.fileno()
        settled = settled_identity(descriptor)
        # The header first: a file that is no model need not be read to its end. But no byte of a
        # file that is not the expected one is parsed.
        header = read_header(path, descriptor) if expected is None else None
        with activities.during("identifying", str(path), settled.size_bytes) as running:
            if reading is not None and expected is None:
                reading()
            sha256 = _digest(stream, running)
        if Identity.of(os.fstat(descriptor)) != settled:
            raise ModelChangedError(
                f"{path} was written to while it was read: call again when it is complete"
            )
        if header is None and sha256 == expected:
            header = read_header(path, descriptor)
    if header is None:
        if found.discard is not None:
            found.discard(path)
        raise ModelFormatError(
            f"{path} is not the expected file (sha256 {sha256}, expected {expected}): "
            f"{found.remedy}"
        )
    key = _facts_key(path, settled)
    remember(cache_dir / _FACTS_FILE, key, {"sha256": sha256, "header": attrs.asdict(header)})
    return ModelPart(path=path, sha256=sha256, identity=settled), header


def _digest(stream: BinaryIO, running: Running) -> str:
    """The SHA-256 of a file from its start, in hexadecimal digits; says how far it is."""
    digest, buffer = hashlib.sha256(), bytearray(_CHUNK_BYTES)
    view = memoryview(buffer)
    while size := stream.readinto(buffer):  # type: ignore[attr-defined]  # of a file opened "rb"
        digest.update(view[:size])
        running.done += size
    return digest.hexdigest()


def _facts_key(path: Path, known: Identity) -> str:
    # With the path, as a cache directory may be shared by machines that number files alike.
    return f"{path.resolve()} {' '.join(map(str, known))} v{_FACTS_VERSION}"


def _restored(known: Any) -> tuple[str, GgufHeader] | None:
    """The facts that were remembered, if they are complete."""
    try:
        sha256, fields = known["sha256"], known["header"]
        # An older version did not know all fields, and not having one has a meaning.
        if fields.keys() != attrs.fields_dict(GgufHeader).keys():
            return None
        header = GgufHeader(**{**fields, "matrix_types": tuple(fields["matrix_types"])})
    except (AttributeError, TypeError, KeyError, ValueError):
        return None
    return (sha256, header) if isinstance(sha256, str) and len(sha256) == 64 else None


def wrong_kind(model: str, kind: Kind) -> ModelCapabilityError:
    """The error for a request of this kind to a model of the other kind."""
    if kind == "generation":
        return ModelCapabilityError(
            f"{model} is an embedding model and cannot generate; set generation_model to "
            '"builtin", "smollm2" or the path of a generation model'
        )
    return ModelCapabilityError(
        f"{model} is a generation model and cannot embed; set embedding_model to "
        '"builtin", "minilm" or the path of an embedding model'
    )
