"""How long OpenMP's threads spin before they sleep, as its library reports it when it is loaded."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

_LOAD = "import os, asteady._engine.llama.lib; print(os.environ.get('GOMP_SPINCOUNT'))"

_WHILE_IT_LOADS = """
import ctypes, os, sys

libc = ctypes.CDLL(None)
libc.getenv.restype = ctypes.c_char_p

class Look:
    def find_spec(self, name, path=None, target=None):
        if name == "llama_cpp":
            print(libc.getenv(b"GOMP_SPINCOUNT"), os.environ.get("GOMP_SPINCOUNT"))

sys.meta_path.insert(0, Look())
import asteady._engine.llama.lib
"""


def _loaded(**environment: str) -> tuple[str, str]:
    """The spin count that was read, and the variable afterwards."""
    unset = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    done = subprocess.run(
        [sys.executable, "-c", _LOAD],
        env={**kept, "OMP_DISPLAY_ENV": "verbose", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"GOMP_SPINCOUNT = '(\w+)'", done.stderr)
    if found is None:
        pytest.skip("this build of llama.cpp does not use GNU OpenMP")
    return found[1], done.stdout.strip()


def test_threads_sleep_early_and_the_environment_is_left_as_it_was() -> None:
    assert _loaded() == ("1000", "None")


def test_the_users_own_spin_count_is_kept() -> None:
    assert _loaded(GOMP_SPINCOUNT="77") == ("77", "77")


def test_the_users_own_wait_policy_is_kept() -> None:
    count, variable = _loaded(OMP_WAIT_POLICY="passive")
    assert (count, variable) == ("0", "None")


@pytest.mark.skipif(sys.platform == "win32", reason="without POSIX's environment")
def test_the_environment_of_other_threads_is_the_same_meanwhile() -> None:
    """One that copies ``os.environ`` reads each variable that it has listed."""
    unset = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", _WHILE_IT_LOADS],
        env={name: value for name, value in os.environ.items() if name not in unset},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "b'1000' None"
