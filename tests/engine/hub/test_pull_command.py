"""``asteady models pull`` on a terminal."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest

from asteady._base.activity import Activities
from asteady._engine.models.hub import pull_model
from tests.cli.terminal import AT_ONCE, Terminal, shown
from tests.engine.hub.helpers import REFERENCE, REPO, run
from tests.engine.hub.server import HubServer

pytest.importorskip("huggingface_hub")


def test_the_bytes_of_a_download_are_counted(hub: HubServer, gguf: bytes, caches: Path) -> None:
    names = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]
    hub.publish(REPO, dict.fromkeys(names, gguf) | {names[1]: gguf + b"more"})
    with Activities().during("downloading", REFERENCE) as running:
        pull_model(f"hf:{REPO}/{names[0]}", caches, running=running)
    assert running.total == running.done == 2 * len(gguf) + 4


@pytest.mark.parametrize("plain", ["", "1"])
def test_a_download_has_a_line_that_vanishes(hub: HubServer, gguf: bytes, plain: str) -> None:
    hub.publish(REPO, {"small-q8_0.gguf": gguf})
    hub.held = threading.Event()
    terminal = Terminal(AT_ONCE, "models", "pull", REFERENCE, PLAIN=plain)
    assert hub.halfway.wait(120)
    terminal.read_until(f"\rasteady: downloading {REFERENCE}")
    hub.held.set()
    code, stdout = terminal.finish()
    assert code == 0, terminal.said
    assert Path(stdout.strip()).read_bytes() == gguf
    assert shown(terminal.said) == []


def test_ctrl_c_ends_a_download_that_does_not_go_on(hub: HubServer, gguf: bytes) -> None:
    hub.publish(REPO, {"small-q8_0.gguf": gguf})
    hub.held = threading.Event()
    terminal = Terminal(AT_ONCE, "models", "pull", REFERENCE)
    assert hub.halfway.wait(120)
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.finish() == (130, "")
    assert shown(terminal.said) == ["asteady: interrupted"]
    hub.held.set()
    hub.held = None
    assert run("pull", REFERENCE)[0] == 0
