"""The description on PyPI: the README, with links that work there.

In the repository its links are relative, so that they work in every copy and branch. PyPI shows
the README alone, so they become addresses in the repository that pyproject.toml names.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class DescriptionHook(MetadataHookInterface):
    def update(self, metadata: dict[str, Any]) -> None:
        readme = Path(self.root, "README.md").read_text("utf-8")
        base = f"{metadata['urls']['Repository']}/blob/main/"
        text = re.sub(r"\]\((?!https?:|#)", f"]({base}", readme)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
