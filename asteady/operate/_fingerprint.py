"""What fingerprints are made of, and why those of two machines differ."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from asteady._base.errors import AsteadyError, InvalidRequestError
from asteady._base.files import AnyPath
from asteady._base.public import public
from asteady._base.requests import KINDS, Kind
from asteady._base.validation import one_of, shorten
from asteady._session.generation import context_of
from asteady._session.session import Session

# Parts that a portable fingerprint does not have.
_OF_CPU = ("libraries", "system", "repack")
_NAMES = {
    "model": "model file",
    "files": "its files",
    "version": "llama.cpp",
    "libraries": "libraries",
    "system": "CPU features",
    "repack": "repacked weights",
    "context_tokens": "context",
    "piece_tokens": "prompt pieces",
    "gpu_layers": "layers on a GPU",
    "thinking": "splits reasoning",
    "flash_attention": "flash attention",
    "kv_unified": "unified cache",
    "ways": "asteady's ways",
    "server": "server",
    "served_model": "served model",
    "revision": "revision",
    "reported": "reported",
}
_MODEL = (
    "Other weights give other answers. Copy the file from one machine to the other, or name one"
    " revision of it: hf:owner/repo/file.gguf@revision."
)
_CONTEXT = (
    "Long prompts and answers end elsewhere. Set context_tokens (ASTEADY_CONTEXT_TOKENS) to the"
    " same number on both."
)
_GPU = (
    "A GPU computes other bits. Set gpu_layers (ASTEADY_GPU_LAYERS) to the same number on both; a"
    " fingerprint does not say which GPU it is."
)
_SERVERS = {
    "server": "Another program computes other bits. Serve the model by the same one.",
    "served_model": "Name one model on both: openai+http://host:8000/v1#name.",
    "revision": "Declare one revision on both: openai+http://host:8000/v1#name@revision.",
    "reported": (
        "The servers say that they have another version or model. Serve the same, or take no"
        " account of it, by ?fingerprint=ignore and a revision of yours."
    ),
}
_WHEEL = (
    "python -m pip wheel --no-deps --no-cache-dir --no-binary llama-cpp-python"
    ' "llama-cpp-python=={}"'
)
_SHOWN_CHARACTERS = 400
_WIDTH = max(map(len, _NAMES.values())) + 2


@public
@attrs.frozen(kw_only=True)
class FingerprintDifference:
    """A part that two fingerprints do not share.

    `here` and `there` are its values, None where a machine does not have it. `text` says what
    follows, and what to do about it. `any_cpu` is True if the fingerprints that
    `Settings.shared_cache_any_cpu` uses do not have this part.
    """

    part: str
    here: Any
    there: Any
    any_cpu: bool
    text: str


@public
@attrs.frozen(kw_only=True)
class ModelFingerprint:
    """The fingerprint of a model on this machine, and what it is made of; its `str` is a text for
    people.

    `model` is the reference, and `asteady` the version. `fingerprint` has 64 hexadecimal digits;
    `portable_fingerprint` is the one without what depends on the CPU. `parts` has, of a model in
    llama.cpp:

    - ``model``: the SHA-256 of the file; of a model in several, that of their digests, ``files``;
    - ``version``, ``libraries``: of llama-cpp-python and llama.cpp, and the SHA-256 of what was
      compiled;
    - ``system``: the features of the CPU that it was compiled to use;
    - ``context_tokens``, ``piece_tokens``, ``repack``, ``gpu_layers``, ``flash_attention``,
      ``kv_unified``: the context, in how many tokens at once prompts are computed, whether weights
      are repacked for the CPU, and constants of the computation;
    - ``thinking``: whether reasoning is split from the text;
    - ``ways``: the version of how asteady tokenises, samples and stops.

    A model on other servers has ``server``, ``served_model``, ``revision`` and ``reported``. Other
    engines have no parts.
    """

    asteady: str
    kind: Kind
    model: str
    fingerprint: str
    portable_fingerprint: str
    parts: Mapping[str, Any]

    def __str__(self) -> str:
        rows = {
            "kind": self.kind,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "for any CPU": self.portable_fingerprint,
            **{_name(part): _shown(part, value) for part, value in self._parts()},
        }
        return "\n".join(f"{name:<{_WIDTH}}{value}" for name, value in rows.items())

    def _parts(self) -> list[tuple[str, Any]]:
        """The parts in the order in which they are shown."""
        names = dict.fromkeys((*_NAMES, *sorted(self.parts)))
        # Most models are in one file.
        return [(name, self.parts[name]) for name in names if self.parts.get(name, []) != []]

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON, which `from_json` reads."""
        return attrs.asdict(self)

    @classmethod
    def from_json(cls, text: str) -> ModelFingerprint:
        """The record of what `as_dict` gave on another machine, or of what was printed there by
        ``asteady fingerprint --json``.

        Raises:
            InvalidRequestError: it is something else.
        """
        try:
            found = json.loads(text)
            # A later version may have more.
            fields = {name: found[name] for name in attrs.fields_dict(cls)}
            parts = dict(fields.pop("parts"))
            one_of("kind", fields["kind"], KINDS)
            if not all(isinstance(value, str) for value in fields.values()):
                raise ValueError("a field is no text")
        except (AsteadyError, ValueError, TypeError, KeyError, RecursionError) as exc:
            raise InvalidRequestError(
                f"{shorten(text.strip(), 60)!r} is not what `asteady fingerprint --json` prints;"
                " run that on the other machine"
            ) from exc
        return cls(**fields, parts=parts)


@public
@attrs.frozen(kw_only=True)
class FingerprintComparison:
    """What two machines share, and why not more; its `str` is a text for people.

    `same`: each finds the other's answers, and computes them byte for byte. `same_any_cpu`: with
    `Settings.shared_cache_any_cpu` each finds the other's answers, which may differ from its own.
    """

    here: ModelFingerprint
    there: ModelFingerprint
    differences: tuple[FingerprintDifference, ...]

    @classmethod
    def of(cls, here: ModelFingerprint, there: ModelFingerprint) -> FingerprintComparison:
        """Compare this machine's fingerprint with another one's.

        Raises:
            InvalidRequestError: one model generates, and the other embeds.
        """
        if here.kind != there.kind:
            raise InvalidRequestError(
                f"the model here is of the kind {here.kind}, and the one there {there.kind}:"
                " compare two of one kind"
            )
        parts = dict.fromkeys((*_NAMES, *sorted({*here.parts, *there.parts})))
        if here.parts.keys().isdisjoint(there.parts):
            parts.clear()
        differing = {part for part in parts if here.parts.get(part) != there.parts.get(part)}
        return cls(
            here=here,
            there=there,
            differences=tuple(
                FingerprintDifference(
                    part=part,
                    here=here.parts.get(part),
                    there=there.parts.get(part),
                    any_cpu=part in _OF_CPU,
                    text=_consequence(part, differing, here, there),
                )
                for part in parts
                if part in differing
            ),
        )

    @property
    def same(self) -> bool:
        return self.here.fingerprint == self.there.fingerprint

    @property
    def same_any_cpu(self) -> bool:
        return self.here.portable_fingerprint == self.there.portable_fingerprint

    def __str__(self) -> str:
        if self.same:
            return (
                f"The fingerprints are equal ({self.here.fingerprint[:12]}): each machine finds the"
                " answers of the other, and computes the same bytes."
            )
        blocks = [
            "\n".join(
                (
                    _name(each.part),
                    f"    here:  {_shown(each.part, each.here, each.there)}",
                    f"    there: {_shown(each.part, each.there, each.here)}",
                    f"    {each.text}",
                )
            )
            for each in self.differences
        ]
        return "\n\n".join([*blocks, self._verdict()])

    def _verdict(self) -> str:
        here, there = self.here.fingerprint[:12], self.there.fingerprint[:12]
        text = (
            f"The fingerprints differ ({here} here, {there} there): no machine finds the answers of"
            " the other"
        )
        if self.here.parts.keys().isdisjoint(self.there.parts):
            return (
                f"{text}, and they have no part in common to compare: where another server computes"
                " the answers, compare on its machine."
            )
        if not self.differences:
            return (
                f"{text}, and nothing that they name differs. They are of asteady"
                f" {self.here.asteady} and {self.there.asteady}: install the same version on both."
            )
        if self.same_any_cpu:
            return f"{text}, unless both set shared_cache_any_cpu."
        return f"{text}, with or without shared_cache_any_cpu."


@public
async def fingerprint(
    session: Session, *, kind: Kind = "generation", model: AnyPath | None = None
) -> ModelFingerprint:
    """The fingerprint of a model on this machine, and what it is made of.

    Loads no weights. A file that is new here is read once for its digest, and a model of the hub is
    downloaded. Cancelling stops waiting for that.

    Args:
        session: the session whose settings and engines count.
        kind: "generation" or "embedding".
        model: default: the session's.

    Raises:
        InvalidRequestError: an argument is not allowed.
        ModelError: the model is unavailable, or of the other kind.
        EngineError: llama-cpp-python is not installed.
        SessionError: the session is not open.
    """
    context = context_of(session)
    session.check_open()
    one_of("kind", kind, KINDS)
    reference = context.model(kind, model)
    digest = await context.models.fingerprint(kind, reference)
    return ModelFingerprint(
        asteady=importlib.metadata.version("asteady"),
        kind=kind,
        model=reference,
        fingerprint=digest,
        portable_fingerprint=context.models.portable_fingerprint(digest),
        parts=await context.models.fingerprint_parts(kind, reference),
    )


def _name(part: str) -> str:
    return _NAMES.get(part, part)


def _shown(part: str, value: Any, other: Any = None) -> str:
    """A value for people; of the CPU's features, if there is another list, those it has not."""
    match part, value:
        case _, None:
            return "-"
        case _, dict():
            return ", ".join(f"{name}={each}" for name, each in value.items())
        case _, bool():
            return "yes" if value else "no"
        case (("context_tokens" | "piece_tokens"), int()):
            return f"{value:,} tokens"
        case "ways", int():
            return f"version {value}"
        case "system", str():
            features = _features(value)
            if isinstance(other, str):
                features = [each for each in features if each not in _features(other)]
                return " ".join(features) or "no other ones"
            return " ".join(features)
        case _, list():
            return " ".join(map(str, value))
    return shorten(str(value), _SHOWN_CHARACTERS)


def _features(system: str) -> Sequence[str]:
    """The features in llama.cpp's description of the build, without those that are off."""
    found = []
    for each in system.split("|"):
        name, _, value = each.replace("CPU :", "").partition("=")
        if name.strip() and value.strip() != "0":
            name = name.strip()
            found.append(name if value.strip() in ("", "1") else f"{name}={value.strip()}")
    return found


def _consequence(
    part: str, differing: set[str], here: ModelFingerprint, there: ModelFingerprint
) -> str:
    """What follows from a difference in this part, when these parts differ."""
    installed = str(here.parts.get("version")).split()[0]
    match part:
        case "model":
            return _MODEL
        case "version":
            return (
                "Another version computes other bits. Install the same on both: python -m pip"
                f' install "llama-cpp-python=={installed}"'
            )
        case "libraries" if "version" in differing:
            return "It follows from the version of llama.cpp."
        case "libraries" if "system" in differing:
            return "It follows from the CPU features, as each machine compiled its own."
        case "libraries":
            return (
                "The same version, compiled twice. Compile it on one machine, and install that"
                f" wheel on both: {_WHEEL.format(installed)}"
            )
        case "system":
            return (
                "Other instructions add in another order, so equal bytes are not promised. Share"
                " answers all the same with shared_cache_any_cpu (ASTEADY_SHARED_CACHE_ANY_CPU=1)"
                " on both. Or, for equal fingerprints and slower answers, install one wheel on both"
                " that is compiled for neither alone: CMAKE_ARGS=-DGGML_NATIVE=OFF"
                f" {_WHEEL.format(installed)}"
            )
        case "context_tokens" if "model" not in differing:
            return _CONTEXT
        case "gpu_layers":
            return _GPU
        case "repack" | "piece_tokens" if "gpu_layers" in differing:
            return "It follows from the layers on a GPU."
        case "repack" if "system" in differing:
            return "It follows from the CPU features."
        case "files" | "context_tokens" | "thinking" | "repack" if "model" in differing:
            return "It follows from the model file."
    if part in _SERVERS:
        return _SERVERS[part]
    return (
        f"asteady computes in another way in its version {there.asteady} there than in"
        f" {here.asteady} here: install the same on both."
    )
