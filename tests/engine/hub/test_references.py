"""References to models of the hub: parsing, and the files that they choose."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from asteady import ModelNotFoundError
from asteady._engine.models.hub import choose, hub_cache, parse_reference
from asteady._engine.models.resolve import resolve_model

pytest.importorskip("huggingface_hub")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("hf:a/b/c.gguf", ("a/b", "c.gguf", None, "main")),
        ("hf:a/b.c-d_e/Q4/f-1.gguf@v1.0", ("a/b.c-d_e", "Q4/f-1.gguf", None, "v1.0")),
        ("hf:a/b:Q4_K_M", ("a/b", None, "Q4_K_M", "main")),
        ("hf:a/b:q8_0@refs/pr/1", ("a/b", None, "q8_0", "refs/pr/1")),
    ],
)
def test_a_reference_has_a_repository_a_file_and_a_revision(
    text: str, parts: tuple[object, ...]
) -> None:
    found = parse_reference(text)
    assert (found.repo, found.file, found.quantisation, found.revision) == parts


@pytest.mark.parametrize(
    "text", ["hf:", "hf:a", "hf:a/b", "hf:a/b/c.bin", "hf:a/b:", "hf:a/../../b.gguf", "hf:a/b/ c"]
)
def test_another_form_is_refused_with_the_forms_of_a_reference(text: str, caches: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"hf:owner/repo/file\.gguf"):
        resolve_model(text, kind="generation", cache_dir=caches)


NAMES = [
    "README.md",
    "m-IQ4_XS.gguf",
    "m-Q4_K.gguf",
    "m-Q4_K_M.gguf",
    "mmproj-m-Q8_0.gguf",
    "m.q8_0.gguf",
    "big/m-F16-00001-of-00002.gguf",
    "big/m-F16-00002-of-00002.gguf",
    "m-BF16-00001-of-00002.gguf",
    "two-a-Q6_K.gguf",
    "two-b-Q6_K.gguf",
]


@pytest.mark.parametrize(
    ("wanted", "files"),
    [
        (":Q4_K_M", ["m-Q4_K_M.gguf"]),
        (":q4_k", ["m-Q4_K.gguf"]),
        (":Q8_0", ["m.q8_0.gguf"]),
        (":F16", NAMES[6:8]),
        ("/m-Q4_K.gguf", ["m-Q4_K.gguf"]),
        ("/big/m-F16-00001-of-00002.gguf", NAMES[6:8]),
        ("/big/m-F16-00002-of-00002.gguf", NAMES[6:8]),
    ],
)
def test_a_quantisation_or_a_name_chooses_a_model_with_all_its_parts(
    wanted: str, files: list[str]
) -> None:
    assert choose(parse_reference(f"hf:a/b{wanted}"), NAMES) == files


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (":Q5_K_M", r"no file of quantisation Q5_K_M; its \.gguf files are: .*m-Q4_K\.gguf"),
        (":Q4_XS", "no file of quantisation Q4_XS"),
        (":Q6_K", "2 files match.*two-a-Q6_K.gguf, two-b-Q6_K.gguf"),
        (":BF16", "does not have all the parts of m-BF16-00001-of-00002.gguf"),
        ("/none.gguf", r"has no none\.gguf; its \.gguf files are: "),
    ],
)
def test_a_reference_that_chooses_no_single_model_is_refused_with_the_names(
    wanted: str, message: str
) -> None:
    with pytest.raises(ModelNotFoundError, match=message):
        choose(parse_reference(f"hf:a/b{wanted}"), NAMES)


def test_a_repository_without_gguf_files_is_named() -> None:
    with pytest.raises(ModelNotFoundError, match="files are: none"):
        choose(parse_reference("hf:a/b:Q4_0"), ["README.md"])


def test_a_long_list_of_names_is_shortened() -> None:
    names = [f"m{number:03}.gguf" for number in range(100)]
    with pytest.raises(ModelNotFoundError, match=r"m023\.gguf and 76 more"):
        choose(parse_reference("hf:a/b/none.gguf"), names)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HF_HOME": "/x"}, "/x/hub"),
        ({"HF_HUB_CACHE": "/y", "HF_HOME": "/x"}, "/y"),
        ({"XDG_CACHE_HOME": "/z"}, "/z/huggingface/hub"),
        ({"HOME": "/h"}, "/h/.cache/huggingface/hub"),
        ({"HF_HOME": "$HOME/q", "HOME": "/h"}, "/h/q/hub"),
    ],
)
def test_the_cache_is_where_huggingface_hub_has_it(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    program = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    theirs = subprocess.check_output([sys.executable, "-c", program], text=True).strip()
    assert str(hub_cache()) == theirs == expected
