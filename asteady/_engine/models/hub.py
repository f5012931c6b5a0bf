"""Models of the Hugging Face hub: ``hf:owner/repo/file.gguf@revision``, ``hf:owner/repo:Q4_K_M``.

The files are in huggingface_hub's standard cache, which other programs share. A reference stays at
the commit at which it was pulled until it is pulled again: an update of the repository changes no
answer, and a model that is on this machine needs no network.

huggingface_hub renames a download when it is complete, so an interrupted one is never used. It
checks the size; the SHA-256 is checked by `asteady._engine.models.resolve`.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

import attrs

from asteady._base.activity import Running
from asteady._base.errors import ModelError, ModelNotFoundError
from asteady._base.files import absolute_path, recall, remember

_log = logging.getLogger("asteady")

_RECORDS = "hub.json"
_REFERENCE = re.compile(
    r"hf:(?P<repo>[\w.-]+/[\w.-]+)"
    r"(?:/(?P<file>[^@:]+\.gguf)|:(?P<quantisation>[\w.-]+))"
    r"(?:@(?P<revision>[^@\s]+))?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PART = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
# In an error message: a repository can have hundreds of files.
_MAX_NAMES = 24
_TIMEOUT_S = 10.0
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FREE_SPACE = "free some space, or set HF_HOME to a directory on another disk"


@attrs.frozen(kw_only=True)
class HubReference:
    """A parsed reference; one of `file` and `quantisation` is given."""

    text: str
    repo: str
    file: str | None
    quantisation: str | None
    revision: str

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit, which cannot move."""
        return _COMMIT.fullmatch(self.revision) is not None


@attrs.frozen(kw_only=True)
class HubModel:
    """A model in the hub's cache: all its files, in order.

    `sha256` has the hub's digest of each file, or None where the hub gives none.
    """

    reference: str
    repo: str
    commit: str
    files: tuple[Path, ...]
    sha256: tuple[str | None, ...]


def parse_reference(text: str) -> HubReference:
    """Parse an ``hf:`` reference.

    Raises:
        ModelNotFoundError: it has another form.
    """
    match = _REFERENCE.fullmatch(text)
    if match is None or ".." in text.split("/"):
        raise ModelNotFoundError(
            f"{text!r} is not a known model reference: write hf:owner/repo/file.gguf or "
            "hf:owner/repo:Q4_K_M, optionally with @revision; others are "
            '"builtin", "smollm2", "minilm" and the path of a .gguf file'
        )
    return HubReference(
        text=text,
        repo=match["repo"],
        file=match["file"],
        quantisation=match["quantisation"],
        revision=match["revision"] or "main",
    )


def hub_cache() -> Path:
    """huggingface_hub's cache directory, by its rules, but without importing it.

    In it are ``models--owner--repo/{refs,blobs,snapshots/commit}``.

    Raises:
        ModelNotFoundError: there is no home directory.
    """
    environ = os.environ
    named = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE")
    if named is None:
        base = environ.get("XDG_CACHE_HOME") or "~/.cache"
        named = os.path.join(environ.get("HF_HOME") or os.path.join(base, "huggingface"), "hub")
    try:
        return absolute_path(os.path.expandvars(named))
    except ValueError as exc:
        raise ModelNotFoundError(
            f"the hub's cache {named!r} cannot be used: {exc}; set HF_HOME to a directory"
        ) from None


def resolve_hub(
    text: str,
    cache_dir: Path,
    *,
    running: Running | None = None,
    stopped: Callable[[], bool] | None = None,
) -> HubModel:
    """The files of a reference on this machine; pulls them if there are none. Blocks.

    Raises as `pull_model` does, which explains `running` and `stopped` too.
    """
    reference = parse_reference(text)
    found = find_model(reference, cache_dir)
    if found is None:
        return pull_model(text, cache_dir, running=running, stopped=stopped)
    if found != recorded(reference, cache_dir):
        _record(found, cache_dir)
    return found


def find_model(reference: HubReference, cache_dir: Path) -> HubModel | None:
    """The model on this machine: as it was pulled, or else as it is in the hub's cache now."""
    known = recorded(reference, cache_dir)
    if known is not None and all(file.exists() for file in known.files):
        return known
    return in_cache(reference)


def recorded(reference: HubReference, cache_dir: Path) -> HubModel | None:
    """The model as recorded when it was pulled; its files may have been removed since."""
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


def _record(model: HubModel, cache_dir: Path) -> None:
    files = [str(file) for file in model.files]
    entry = {"commit": model.commit, "files": files, "sha256": list(model.sha256)}
    remember(cache_dir / _RECORDS, _record_key(model.reference), entry)


def forget(reference: HubReference, cache_dir: Path) -> None:
    """Remove the record of a reference."""
    remember(cache_dir / _RECORDS, _record_key(reference.text), None)


def _record_key(text: str) -> str:
    return f"{text} in {hub_cache()}"


def in_cache(reference: HubReference) -> HubModel | None:
    """The model in the hub's cache, whichever program downloaded it."""
    folder = _repo_folder(reference.repo)
    commit = reference.revision
    if not reference.pinned:
        try:
            commit = (folder / "refs" / reference.revision).read_text(encoding="utf-8").strip()
        except OSError:
            return None
    snapshot = folder / "snapshots" / commit
    try:
        parts = choose(reference, _names(snapshot))
    except ModelNotFoundError:
        return None
    return _model(reference.text, reference.repo, commit, snapshot, parts)


def cached_models() -> Iterator[HubModel]:
    """Every complete GGUF model in the hub's cache, with a reference that names it."""
    for folder in sorted(hub_cache().glob("models--*--*")):
        repo = folder.name.removeprefix("models--").replace("--", "/", 1)
        refs = {
            file.read_text(encoding="utf-8").strip(): file.relative_to(folder / "refs").as_posix()
            for file in sorted((folder / "refs").rglob("*"), reverse=True)
            if file.is_file()
        }
        for snapshot in sorted((folder / "snapshots").glob("*")):
            commit = snapshot.name
            revision = refs.get(commit, commit)
            at = "" if revision == "main" else f"@{revision}"
            for parts in group_parts(_names(snapshot)).values():
                if parts is not None:
                    yield _model(f"hf:{repo}/{parts[0]}{at}", repo, commit, snapshot, parts)


def discard(file: Path) -> int:
    """Remove a file from the hub's cache; returns the bytes freed.

    Its blob goes too unless another revision uses it, and so do the snapshot and the repository
    when nothing else is in them.
    """
    folder = next(parent for parent in file.parents if parent.name.startswith("models--"))
    snapshot = folder / "snapshots" / file.relative_to(folder / "snapshots").parts[0]
    blob = _blob(file)
    size = file.stat().st_size if file.exists() else 0
    file.unlink(missing_ok=True)
    if blob is not None:
        if any(_blob(other) == blob for other in (folder / "snapshots").rglob("*")):
            size = 0
        else:
            blob.unlink(missing_ok=True)
    if not any(left.is_symlink() or left.is_file() for left in snapshot.rglob("*")):
        shutil.rmtree(snapshot, ignore_errors=True)
        for ref in [ref for ref in (folder / "refs").rglob("*") if ref.is_file()]:
            if ref.read_text(encoding="utf-8").strip() == snapshot.name:
                ref.unlink()
    if not any((folder / "snapshots").glob("*")):
        shutil.rmtree(folder, ignore_errors=True)
    return size


def _repo_folder(repo: str) -> Path:
    return hub_cache() / f"models--{repo.replace('/', '--')}"


def _names(snapshot: Path) -> list[str]:
    return [file.relative_to(snapshot).as_posix() for file in sorted(snapshot.rglob("*.gguf"))]


def _model(text: str, repo: str, commit: str, snapshot: Path, parts: Iterable[str]) -> HubModel:
    files = tuple(snapshot / part for part in parts)
    # The name of a large file's blob is the hub's SHA-256 of it.
    names = [blob.name if (blob := _blob(file)) else "" for file in files]
    sha256 = tuple(name if _SHA256.fullmatch(name) else None for name in names)
    return HubModel(reference=text, repo=repo, commit=commit, files=files, sha256=sha256)


def _blob(file: Path) -> Path | None:
    """The blob that a snapshot's file links to; None on a file system without symbolic links."""
    if not file.is_symlink():
        return None
    return Path(os.path.normpath(file.parent / os.readlink(file)))


def group_parts(names: Iterable[str]) -> dict[str, list[str] | None]:
    """The models among `names`: first file to all files in order, or None if some are missing."""
    models: dict[str, list[str] | None] = {}
    present = sorted(name for name in names if name.endswith(".gguf"))
    for name in present:
        parts = part_names(name)
        models[parts[0]] = parts if set(parts) <= set(present) else None
    return models


def part_names(name: str) -> list[str]:
    """The names of all files of a split model, given any of them; of another model just `name`."""
    match = _PART.fullmatch(name)
    if match is None:
        return [name]
    count = int(match["count"])
    return [f"{match['stem']}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]


def choose(reference: HubReference, names: Iterable[str]) -> list[str]:
    """The files of a reference, in order, among the names in a repository.

    Raises:
        ModelNotFoundError: no model matches, or several do; the message lists them.
    """
    models = group_parts(names)
    if reference.file is not None:
        matching = [name for name in models if name == part_names(reference.file)[0]]
    else:
        # Q4_K is not Q4_K_M, nor is Q4_XS IQ4_XS; mmproj files are for images.
        wanted = re.escape(reference.quantisation or "")
        delimited = re.compile(rf"(?<!\w){wanted}(?!\w)", re.I | re.A)
        files = [name for name in models if "mmproj" not in name]
        matching = [name for name in files if delimited.search(name.rsplit("/", 1)[-1])]
    where = f"{reference.text}: {reference.repo} at {reference.revision}"
    if len(matching) == 1:
        parts = models[matching[0]]
        if parts is not None:
            return parts
        raise ModelNotFoundError(f"{where} does not have all the parts of {matching[0]}")
    if matching:
        raise ModelNotFoundError(
            f"{reference.text}: {len(matching)} files match; name one as hf:{reference.repo}/FILE:"
            f" {_listed(matching)}"
        )
    what = reference.file or f"file of quantisation {reference.quantisation}"
    raise ModelNotFoundError(
        f"{where} has no {what}; its .gguf files are: {_listed(models) or 'none'}"
    )


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    more = len(every) - _MAX_NAMES
    return ", ".join(every[:_MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def pull_model(
    text: str,
    cache_dir: Path,
    *,
    running: Running | None = None,
    stopped: Callable[[], bool] | None = None,
) -> HubModel:
    """Ask the hub which files a reference names now, and download those that are missing. Blocks.

    If the branch or tag has moved since the last pull, a warning with both commits is logged. A
    reference to a commit that is in the cache needs no network. `running` gets the numbers of bytes
    in all and done. `stopped` is called after every 10 MB; the download ends when it returns True.

    Raises:
        ModelNotFoundError: no such repository, revision or file; no access, network or disk space;
            huggingface_hub is not installed; or `stopped` returned True.
    """
    reference = parse_reference(text)
    before = recorded(reference, cache_dir)
    if reference.pinned and (here := in_cache(reference)) is not None:
        _record(here, cache_dir)
        return here
    if find_spec("huggingface_hub") is None:
        raise ModelNotFoundError(
            f"{text} is not on this machine, and downloading it needs huggingface_hub: "
            'pip install "asteady[hub]"'
        )
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise ModelNotFoundError(
            f"{text} cannot be downloaded, as HF_HUB_OFFLINE is set: unset it and run "
            f"`asteady models pull {text}`"
        )
    try:
        model = _download(
            reference, running or Running("downloading", text, 0), stopped or (lambda: False)
        )
    except ModelError:
        raise
    except Exception as exc:
        # Any error: the HTTP client, and with it its errors, changed between versions.
        raise ModelNotFoundError(f"{text}: {_explain(reference, exc)}") from exc
    if before is not None and before.commit != model.commit:
        moved = (text, reference.revision, before.commit, model.commit)
        _log.warning("%s moved: %s was commit %s when it was last pulled and is %s now", *moved)
    _record(model, cache_dir)
    return model


def _download(reference: HubReference, running: Running, stopped: Callable[[], bool]) -> HubModel:
    from huggingface_hub import HfApi, hf_hub_download

    cache = hub_cache()
    info = HfApi(endpoint=_endpoint()).model_info(
        reference.repo, revision=reference.revision, files_metadata=True, timeout=_TIMEOUT_S
    )
    offered = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    names = choose(reference, offered)
    commit = str(info.sha)
    snapshot = _repo_folder(reference.repo) / "snapshots" / commit
    missing_bytes = sum(offered[name].size or 0 for name in names if not (snapshot / name).exists())
    running.total = missing_bytes
    existing = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < missing_bytes:
        raise ModelNotFoundError(
            f"{reference.text} needs {missing_bytes / 1e6:,.1f} MB, and the disk of {cache} has "
            f"{free_bytes / 1e6:,.1f} MB free: {_FREE_SPACE}"
        )
    began = perf_counter()
    if missing_bytes:
        _log.info("downloading %s at %s, %.1f MB", reference.text, commit, missing_bytes / 1e6)
    files = []
    for name in names:
        path = hf_hub_download(
            reference.repo,
            name,
            revision=reference.revision,
            cache_dir=cache,
            endpoint=_endpoint(),
            library_name="asteady",
            tqdm_class=_silent_bar(reference, running, stopped),
        )
        # If the branch moved after the first request, files of two commits would be mixed.
        if commit not in Path(path).parts:
            raise ModelNotFoundError(f"{reference.text} moved during the download: pull it again")
        files.append(Path(path))
    if missing_bytes:
        _log.info("downloaded %s in %.1f s", reference.text, perf_counter() - began)
    return HubModel(
        reference=reference.text,
        repo=reference.repo,
        commit=commit,
        files=tuple(files),
        sha256=tuple(getattr(offered[name].lfs, "sha256", None) for name in names),
    )


def _silent_bar(reference: HubReference, running: Running, stopped: Callable[[], bool]) -> Any:
    """A class of progress bars that show nothing, count the bytes, and end the download when
    `stopped` says so: huggingface_hub calls nothing else during a download."""
    from huggingface_hub import utils

    bar: Any = utils.tqdm  # type: ignore[attr-defined]  # public, but not marked as exported

    before = running.done

    class SilentBar(bar):  # type: ignore[misc]  # its base is not typed
        monitor_interval = 0  # or each download would leave a thread of tqdm behind
        _bytes = 0

        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **{**more, "disable": True})
            self._count(more.get("initial") or 0)  # of a download that is continued

        def _count(self, n: float) -> None:
            # The hub's storage has two bars for one file, of what was sent and of what is written.
            self._bytes += int(n)
            running.done = max(running.done, before + self._bytes)

        def update(self, n: float | None = 1) -> bool | None:
            if stopped():
                raise ModelNotFoundError(f"{reference.text}: the download was stopped")
            self._count(n or 0)
            return super().update(n)  # type: ignore[no-any-return]  # its base is not typed

    return SilentBar


def _endpoint() -> str | None:
    # huggingface_hub reads the variable once, when it is imported.
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


def _explain(reference: HubReference, error: Exception) -> str:
    """In one line, with a remedy."""
    from huggingface_hub import errors

    repo = reference.repo
    endpoint = _endpoint() or "https://huggingface.co"
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{repo} is gated: accept its terms at {endpoint}/{repo}, and set HF_TOKEN to a token "
            "of that account"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{endpoint} has no model {repo}, or it is private: check the name, or set HF_TOKEN to "
            "a token that may read it"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo} has no revision {reference.revision!r}: name a branch, tag or commit"
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            return (
                f"{endpoint} refuses access ({status}): set HF_TOKEN to a valid token that may "
                f"read {repo}"
            )
        return f"{endpoint} answered {status}: try again later"
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        return f"the disk of {hub_cache()} is full ({error.strerror}): {_FREE_SPACE}"
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"the download from {endpoint} failed: {reason}; check the network and try again"
