"""Libraries that only one tool needs: imported when it is used."""

from __future__ import annotations

import importlib
from typing import Any

from asteady._base.errors import SettingsError


def needs(module: str, *, extra: str) -> Any:
    """Import a module that one of the package's extras installs.

    Raises:
        SettingsError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise SettingsError(f'this needs {module}: pip install "asteady[{extra}]"') from None
