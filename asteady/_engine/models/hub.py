"""Models from the Hugging Face hub: ``hf:owner/repo/file.gguf@revision``, ``hf:owner/repo:Q4_K_M``.

The files lie in the standard cache of huggingface_hub, which other programs use too. A reference
stays at the commit that it was pulled at until it is pulled again: no answer changes because
somebody pushed, and nothing is asked of the hub for a model that is here.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import attrs

from asteady._base.errors import ModelNotFoundError
from asteady._base.files import recall, remember

log = logging.getLogger("asteady")

_RECORDS = "hub.json"
_REFERENCE = re.compile(
    r"hf:(?P<repo>[\w.-]+/[\w.-]+)"
    r"(?:/(?P<file>[^@:]+\.gguf)|:(?P<quantisation>[\w.-]+))"
    r"(?:@(?P<revision>[^@\s]+))?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
# Names in an error message; a repository can have a hundred files.
_MOST_NAMES = 24


@attrs.frozen(kw_only=True)
class HubReference:
    """A reference taken apart: either `file` or `quantisation` is given."""

    text: str
    repo: str
    file: str | None
    quantisation: str | None
    revision: str

    @property
    def pinned(self) -> bool:
        """Whether it names a commit, which cannot move."""
        return _COMMIT.fullmatch(self.revision) is not None


@attrs.frozen(kw_only=True)
class HubModel:
    """A model whose files are in the hub's cache: all its parts, in order.

    `sha256` has what the hub says of each part, None for one of which it says nothing.
    """

    reference: str
    repo: str
    commit: str
    files: tuple[Path, ...]
    sha256: tuple[str | None, ...]


def parse_reference(text: str) -> HubReference:
    """Take an ``hf:`` reference apart.

    Raises:
        ModelNotFoundError: it is not written as one.
    """
    match = _REFERENCE.fullmatch(text)
    if match is None or ".." in text.split("/"):
        raise ModelNotFoundError(
            f"{text!r} is not a known model reference: write hf:owner/repo/file.gguf or "
            "hf:owner/repo:Q4_K_M, either with @revision if need be; others are "
            '"builtin", "minilm" and the path of a .gguf file'
        )
    return HubReference(
        text=text,
        repo=match["repo"],
        file=match["file"],
        quantisation=match["quantisation"],
        revision=match["revision"] or "main",
    )


def hub_cache() -> Path:
    """The cache directory of huggingface_hub, found by its rules but without importing it."""
    environ = os.environ
    named = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE")
    if named is None:
        base = environ.get("XDG_CACHE_HOME") or "~/.cache"
        named = os.path.join(environ.get("HF_HOME") or os.path.join(base, "huggingface"), "hub")
    return Path(os.path.expandvars(named)).expanduser().absolute()


def resolve_hub(
    text: str, cache_dir: Path, *, stopped: Callable[[], bool] | None = None
) -> HubModel:
    """The files of a reference: those that were pulled, else pull them. Blocks.

    A pull is given up when `stopped` gives True.

    Raises:
        ModelNotFoundError: no such reference, repository or file; no access; no network; no room.
    """
    reference = parse_reference(text)
    known = recorded(reference, cache_dir)
    if known is not None and all(file.exists() for file in known.files):
        return known
    found = in_cache(reference)
    if found is not None:
        record(found, cache_dir)
        return found
    from asteady._engine.models.hub_pull import pull_model

    return pull_model(text, cache_dir, show_progress=False, stopped=stopped)


# -- what was pulled -----------------------------------------------------------------------------


def recorded(reference: HubReference, cache_dir: Path) -> HubModel | None:
    """What was recorded of a reference when it was pulled; its files may be gone since."""
    entry = recall(cache_dir / _RECORDS, _record_key(reference.text))
    try:
        return HubModel(
            reference=reference.text,
            repo=reference.repo,
            commit=str(entry["commit"]),
            files=tuple(Path(file) for file in entry["files"]),
            sha256=tuple(entry["sha256"]),
        )
    except (TypeError, KeyError):
        return None


def record(model: HubModel, cache_dir: Path) -> None:
    remember(
        cache_dir / _RECORDS,
        _record_key(model.reference),
        {
            "commit": model.commit,
            "files": [str(file) for file in model.files],
            "sha256": list(model.sha256),
        },
    )


def _record_key(text: str) -> str:
    return f"{text} in {hub_cache()}"


# -- the hub's cache: models--owner--repo/{refs,blobs,snapshots/commit} ------------


def in_cache(reference: HubReference) -> HubModel | None:
    """What the hub's cache has of a reference, whoever put it there."""
    folder = _folder(reference.repo)
    commit = reference.revision
    if not reference.pinned:
        try:
            commit = (folder / "refs" / reference.revision).read_text(encoding="utf-8").strip()
        except OSError:
            return None
    snapshot = folder / "snapshots" / commit
    names = [file.relative_to(snapshot).as_posix() for file in sorted(snapshot.rglob("*.gguf"))]
    try:
        parts = choose(reference, names)
    except ModelNotFoundError:
        return None
    return _model(reference.text, reference.repo, commit, snapshot, parts)


def cached_models() -> Iterator[HubModel]:
    """Every model in the hub's cache that is a complete .gguf, each by a reference of its own."""
    for folder in sorted(hub_cache().glob("models--*--*")):
        repo = folder.name.removeprefix("models--").replace("--", "/", 1)
        refs = {
            file.read_text(encoding="utf-8").strip(): file.relative_to(folder / "refs").as_posix()
            for file in sorted((folder / "refs").rglob("*"), reverse=True)
            if file.is_file()
        }
        for snapshot in sorted((folder / "snapshots").glob("*")):
            commit = snapshot.name
            names = [f.relative_to(snapshot).as_posix() for f in sorted(snapshot.rglob("*.gguf"))]
            revision = refs.get(commit, commit)
            at = "" if revision == "main" else f"@{revision}"
            for parts in group_parts(names).values():
                if parts is not None:
                    yield _model(f"hf:{repo}/{parts[0]}{at}", repo, commit, snapshot, parts)


def discard(file: Path) -> int:
    """Remove a file from the hub's cache, with its blob if nothing else names it, and whatever of
    its snapshot and repository is empty then. Gives the bytes that became free.
    """
    folder = next(parent for parent in file.parents if parent.name.startswith("models--"))
    snapshot = folder / "snapshots" / file.relative_to(folder / "snapshots").parts[0]
    blob = _blob(file)
    size = file.stat().st_size if file.exists() else 0
    file.unlink(missing_ok=True)
    if blob is not None:
        others = (other for other in (folder / "snapshots").rglob("*") if _blob(other) == blob)
        if next(others, None) is None:
            blob.unlink(missing_ok=True)
        else:
            size = 0
    if not any(left.is_symlink() or left.is_file() for left in snapshot.rglob("*")):
        shutil.rmtree(snapshot, ignore_errors=True)
        for ref in [ref for ref in (folder / "refs").rglob("*") if ref.is_file()]:
            if ref.read_text(encoding="utf-8").strip() == snapshot.name:
                ref.unlink()
    if not any((folder / "snapshots").glob("*")):
        shutil.rmtree(folder, ignore_errors=True)
    return size


def forget(reference: HubReference, cache_dir: Path) -> None:
    """Drop what was recorded of a reference."""
    remember(cache_dir / _RECORDS, _record_key(reference.text), None)


def _folder(repo: str) -> Path:
    return hub_cache() / f"models--{repo.replace('/', '--')}"


def _model(text: str, repo: str, commit: str, snapshot: Path, parts: Iterable[str]) -> HubModel:
    files = tuple(snapshot / part for part in parts)
    return HubModel(
        reference=text,
        repo=repo,
        commit=commit,
        files=files,
        sha256=tuple(_promised(file) for file in files),
    )


def _blob(file: Path) -> Path | None:
    """The blob that a snapshot's file links to; None where links cannot be made."""
    if not file.is_symlink():
        return None
    return Path(os.path.normpath(file.parent / os.readlink(file)))


def _promised(file: Path) -> str | None:
    """A blob of a large file is named by the sha256 that the hub promised."""
    blob = _blob(file)
    return blob.name if blob is not None and _SHA256.fullmatch(blob.name) else None


# -- which files --------------------------------------------------------------------------------


def group_parts(names: Iterable[str]) -> dict[str, list[str] | None]:
    """The .gguf files among `names`, by the first part of each; None where parts are missing."""
    models: dict[str, list[str] | None] = {}
    present = sorted(name for name in names if name.endswith(".gguf"))
    for name in present:
        match = _PART.fullmatch(name)
        if match is None:
            models[name] = [name]
            continue
        parts = part_names(name)
        models[parts[0]] = parts if set(parts) <= set(present) else None
    return models


def part_names(name: str) -> list[str]:
    """The names of all parts of a model that is split over several files; else just the name."""
    match = _PART.fullmatch(name)
    if match is None:
        return [name]
    count = int(match["count"])
    return [f"{match['stem']}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]


def choose(reference: HubReference, names: Iterable[str]) -> list[str]:
    """The files of a reference, all parts in order, among those of a repository.

    Raises:
        ModelNotFoundError: there is none, or several would do; the message lists them.
    """
    models = group_parts(names)
    if reference.file is not None:
        wanted = [name for name in models if name == part_names(reference.file)[0]]
    else:
        # Q4_K is not Q4_K_M, nor is Q4_XS IQ4_XS; mmproj files are for images.
        delimited = re.compile(
            rf"(?<![A-Za-z0-9_]){re.escape(reference.quantisation or '')}(?![A-Za-z0-9_])", re.I
        )
        wanted = [
            name
            for name in models
            if delimited.search(name.rsplit("/", 1)[-1]) and "mmproj" not in name
        ]
    if len(wanted) == 1:
        parts = models[wanted[0]]
        if parts is not None:
            return parts
        raise ModelNotFoundError(
            f"{reference.text}: {reference.repo} at {reference.revision} does not have all the "
            f"parts of {wanted[0]}"
        )
    what = reference.file or f"file of quantisation {reference.quantisation}"
    if wanted:
        raise ModelNotFoundError(
            f"{reference.text}: {len(wanted)} files would do, name one as hf:{reference.repo}/FILE:"
            f" {_listed(wanted)}"
        )
    raise ModelNotFoundError(
        f"{reference.text}: {reference.repo} at {reference.revision} has no {what}; its .gguf "
        f"files are: {_listed(models) or 'none'}"
    )


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    more = len(every) - _MOST_NAMES
    return ", ".join(every[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
