"""The API keys that clients may give."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from asteady._base.errors import SettingsError

VARIABLE = "ASTEADY_API_KEY"


def read_keys(
    given: Iterable[str], files: Iterable[str], environ: Mapping[str, str] = os.environ
) -> list[str]:
    """The keys that are given, those of files, one a line, and those of the variable, with commas
    between them.

    Raises:
        SettingsError: one is empty or cannot be sent in a header, or a file has none.
        OSError: a file cannot be read.
    """
    found = [_checked("--api-key", key) for key in given]
    for file in files:
        lines = [line.strip() for line in Path(file).read_text("utf-8").splitlines()]
        keys = [line for line in lines if line and not line.startswith("#")]
        if not keys:
            raise SettingsError(f"--api-key-file {file} has no key: write one a line")
        found += [_checked(f"--api-key-file {file}", key) for key in keys]
    if variable := environ.get(VARIABLE):
        found += [_checked(VARIABLE, key.strip()) for key in variable.split(",")]
    return list(dict.fromkeys(found))


def _checked(where: str, key: str) -> str:
    # Not shown: it is a secret.
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise SettingsError(
            f"{where}: a key is empty, or has spaces or other characters than those of ASCII; make"
            ' one with python -c "import secrets; print(secrets.token_urlsafe())"'
        )
    return key
