"""Which log probabilities belong to which chunk of a text."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings, strategies as st

from asteady._base.requests import ChunkLogprobs, TokenLogprob
from asteady._engine.output.text import TextStream

PIECES = st.binary(max_size=3) | st.sampled_from(["a", "b", "é", "😀", "\n"]).map(str.encode)


def token(piece: bytes) -> TokenLogprob:
    return TokenLogprob(token_id=1, token=piece, logprob=-1.0)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    pieces=st.lists(PIECES, max_size=12),
    stop=st.lists(st.text("ab", min_size=1, max_size=3), max_size=2),
    reasoning=st.integers(0, 2),
)
def test_a_replay_has_the_same_as_the_computation(
    pieces: list[bytes], stop: list[str], reasoning: int
) -> None:
    stream, live = TextStream(stop), ChunkLogprobs()
    tokens = [token(b"thinking")] * reasoning
    chunks: list[str] = []
    found: list[tuple[TokenLogprob, ...]] = []

    def emit(text: str) -> None:
        if reasoning and not chunks:  # white space around the tags is in neither
            text = text.lstrip()
        if text:
            chunks.append(text)
            found.append(live.take(text, tokens, reasoning))

    for piece in pieces:
        if stream.stopped:
            break
        tokens.append(token(piece))
        emit(stream.add(piece))
    emit(stream.end(cut=False))
    again = ChunkLogprobs()
    assert [again.take(chunk, tokens, reasoning) for chunk in chunks] == found
    # In order, each once, and none of the reasoning.
    flat = [each for part in found for each in part]
    assert flat == tokens[reasoning : reasoning + len(flat)]
    if not stream.stopped and chunks:
        assert all(each.token == b"" for each in tokens[reasoning + len(flat) :])


def test_a_character_of_several_tokens_has_all_of_them() -> None:
    tokens = [token(piece) for piece in (b"a", b"\xf0\x9f", b"\x98\x80", b"b")]
    take = ChunkLogprobs().take
    assert take("a", tokens[:1], 0) == (tokens[0],)
    assert take("\N{GRINNING FACE}", tokens[:3], 0) == (tokens[1], tokens[2])
    assert take("b", tokens, 0) == (tokens[3],)
