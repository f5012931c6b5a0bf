"""Record what a model says, and replay it without the model: what the pytest plugin does."""

import tempfile
from pathlib import Path

from asteady import blocking
from asteady.testing import MissingAnswerError, Recording

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "answers.toml"

    with Recording(path, "record"), blocking.Session(disable_cache=True) as session:
        session.generate("Write a haiku about rain", max_new_tokens=20)
    print(path.read_text(encoding="utf-8"))

    with Recording(path), blocking.Session(disable_cache=True) as session:
        print(session.generate("Write a haiku about rain", max_new_tokens=20))
        try:
            session.generate("Write a haiku about snow", max_new_tokens=20)
        except MissingAnswerError as error:
            print(f"\n{error}")
