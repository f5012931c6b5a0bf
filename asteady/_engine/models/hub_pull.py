"""Fetching a model from the Hugging Face hub, and saying in one line what went wrong.

huggingface_hub writes each download under a name of its own and renames it when it is complete, so
an interrupted one is never taken for the file. It checks the size; the sha256 is checked where the
model is opened (`asteady._engine.models.resolve`).
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

from asteady._base.errors import ModelError, ModelNotFoundError
from asteady._engine.models.hub import (
    HubModel,
    HubReference,
    choose,
    hub_cache,
    in_cache,
    log,
    parse_reference,
    record,
    recorded,
)

_TIMEOUT_S = 10.0
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def pull_model(
    text: str,
    cache_dir: Path,
    *,
    show_progress: bool,
    stopped: Callable[[], bool] | None = None,
) -> HubModel:
    """Ask the hub for what a reference names now, and fetch what of it is not here yet. Blocks.

    A branch or tag that moved since it was last pulled is logged as a warning, with both commits.
    A reference that names a commit asks nothing of the hub once it is here. `stopped` is asked at
    every piece of a file, of 10 MB each; if it gives True, the pull is given up.

    Raises:
        ModelNotFoundError: no such repository, revision or file; no access; no network; no room;
            or huggingface_hub is not installed.
    """
    reference = parse_reference(text)
    before = recorded(reference, cache_dir)
    if reference.pinned and (here := in_cache(reference)) is not None:
        record(here, cache_dir)
        return here
    if find_spec("huggingface_hub") is None:
        raise ModelNotFoundError(
            f'{text} is not here, and the hub needs huggingface_hub: pip install "asteady[hub]"'
        )
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise ModelNotFoundError(
            f"the hub cannot be asked for {text}, as HF_HUB_OFFLINE is set: unset it and run "
            f"`asteady models pull {text}`"
        )
    with _explained(reference):
        bar = None if show_progress else _no_bar(reference, stopped or (lambda: False))
        model = _fetch(reference, bar)
    if before is not None and before.commit != model.commit:
        log.warning(
            "%s moved: %s was commit %s when it was last pulled and is %s now",
            text,
            reference.revision,
            before.commit,
            model.commit,
        )
    record(model, cache_dir)
    return model


def _fetch(reference: HubReference, bar: Any) -> HubModel:
    from huggingface_hub import HfApi, hf_hub_download

    cache = hub_cache()
    api = HfApi(endpoint=_endpoint())
    info = api.model_info(
        reference.repo, revision=reference.revision, files_metadata=True, timeout=_TIMEOUT_S
    )
    offered = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    names = choose(reference, offered)
    commit = str(info.sha)
    snapshot = cache / f"models--{reference.repo.replace('/', '--')}" / "snapshots" / commit
    missing_bytes = sum(offered[name].size or 0 for name in names if not (snapshot / name).exists())
    _check_room(reference, cache, missing_bytes)
    began = perf_counter()
    if missing_bytes:
        log.info("pulling %s at %s, %.1f MB", reference.text, commit, missing_bytes / 1e6)
    files = tuple(
        Path(
            hf_hub_download(
                reference.repo,
                name,
                revision=reference.revision,
                cache_dir=cache,
                endpoint=_endpoint(),
                library_name="asteady",
                tqdm_class=bar,
            )
        )
        for name in names
    )
    if missing_bytes:
        log.info("pulled %s in %.1f s", reference.text, perf_counter() - began)
    promised = tuple(getattr(offered[name].lfs, "sha256", None) for name in names)
    return HubModel(
        reference=reference.text,
        repo=reference.repo,
        commit=commit,
        # A branch that moves between the two requests would mix two commits.
        files=tuple(_at(commit, file, reference) for file in files),
        sha256=promised,
    )


def _no_bar(reference: HubReference, stopped: Callable[[], bool]) -> Any:
    """A class of progress bars that show nothing (a session says in its log that it pulls), but
    end the download when it is to stop: nothing else is called while it goes on."""
    from huggingface_hub import utils

    bar: Any = utils.tqdm  # type: ignore[attr-defined]  # public, but not marked as exported

    class NoBar(bar):  # type: ignore[misc]  # its base is not typed
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **{**more, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            if stopped():
                raise ModelNotFoundError(f"{reference.text}: the pull was stopped")
            return super().update(n)  # type: ignore[no-any-return]  # its base is not typed

    return NoBar


def _at(commit: str, file: Path, reference: HubReference) -> Path:
    if commit not in file.parts:
        raise ModelNotFoundError(f"{reference.text} moved while it was pulled: pull it again")
    return file


def _endpoint() -> str | None:
    # huggingface_hub reads this once, when it is imported; we read it when it is used.
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


def _check_room(reference: HubReference, cache: Path, needed_bytes: int) -> None:
    existing = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < needed_bytes:
        raise ModelNotFoundError(
            f"{reference.text} needs {needed_bytes / 1e6:,.1f} MB, and {cache} has room for "
            f"{free_bytes / 1e6:,.1f}: make room, or set HF_HOME to a directory on another disk"
        )


@contextmanager
def _explained(reference: HubReference) -> Iterator[None]:
    """Turn what huggingface_hub and its transport raise into one line with a remedy."""
    try:
        yield
    except ModelError:
        raise
    except Exception as exc:
        # Everything: the transport has changed from version to version, and with it its errors.
        raise ModelNotFoundError(_explain(reference, exc)) from exc


def _explain(reference: HubReference, error: Exception) -> str:
    from huggingface_hub import errors

    text, repo = reference.text, reference.repo
    endpoint = _endpoint() or "https://huggingface.co"
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{text}: {repo} is gated: accept its terms at {endpoint}/{repo}, and set HF_TOKEN to "
            "a token of that account"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{text}: {endpoint} has no model {repo}, or it is private: check the name, or set "
            "HF_TOKEN to a token that may read it"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return (
            f"{text}: {repo} has no revision {reference.revision!r}: name a branch, tag or commit"
        )
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            return (
                f"{text}: {endpoint} refuses access ({status}): set HF_TOKEN to a valid token that "
                f"may read {repo}"
            )
        return f"{text}: {endpoint} answered {status}: try again later"
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return (
            f"{text}: there is no room for it in {hub_cache()} ({error.strerror}): make room, or "
            "set HF_HOME to a directory on another disk"
        )
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"{text} could not be fetched from {endpoint}: {reason}; check the network and try again"
