"""The memory tier: bounded by entries and bytes, and exact about what it holds."""

from __future__ import annotations

from hypothesis import given, strategies as st

from asteady._base.requests import Completion, TokenLogprob
from asteady._cache.memory import (
    ALIASES_PER_ENTRY,
    ENTRY_BYTES,
    Held,
    Memory,
    deep_bytes,
    held_bytes,
)
from tests.cache.helpers import completion, embedding

ANSWER = completion("")


def check(memory: Memory[Completion]) -> None:
    """Everything that must hold of a memory tier."""
    assert len(memory) <= memory.max_entries
    assert memory.size_bytes <= memory.max_bytes
    assert memory.size_bytes == sum(held.size_bytes for held in memory.by_key.values())
    chain: list[Held[Completion]] = []
    held = memory._oldest
    while held is not None:
        assert held.older is (chain[-1] if chain else None)
        chain.append(held)
        held = held.newer
    assert memory._newest is (chain[-1] if chain else None)
    assert {item.key for item in chain} == set(memory.by_key)
    assert memory._hand is None or memory._hand in chain
    aliases = [alias for item in chain for alias in item.aliases]
    assert sorted(map(repr, aliases)) == sorted(map(repr, memory.by_alias))
    assert all(alias in found.aliases for alias, found in memory.by_alias.items())


@given(
    ops=st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(0, 9), st.integers(0, 3000)),
            st.tuples(st.just("use"), st.integers(0, 9), st.just(0)),
            st.tuples(st.just("alias"), st.integers(0, 9), st.integers(0, 30)),
            st.tuples(st.just("discard"), st.integers(0, 9), st.just(0)),
            st.tuples(st.just("clear"), st.just(0), st.just(0)),
        )
    ),
    max_entries=st.integers(1, 5),
)
def test_bounds_and_links_hold_after_every_operation(
    ops: list[tuple[str, int, int]], max_entries: int
) -> None:
    memory: Memory[Completion] = Memory(max_entries, 6000)
    for what, number, size in ops:
        key = f"k{number}"
        held = memory.by_key.get(key)
        if what == "add":
            added = memory.add(key, completion("x" * size, chunks=()), 1.0)
            assert (added is None) == (key not in memory.by_key)
        elif what == "use" and held is not None:
            held.used += 1
        elif what == "alias" and held is not None:
            memory.alias(("alias", "x" * size), held)
        elif what == "discard":
            memory.discard(key)
        elif what == "clear":
            memory.clear()
        check(memory)


def test_what_was_used_outlives_what_was_not() -> None:
    memory: Memory[Completion] = Memory(3, 10**6)
    for key in "abc":
        memory.add(key, ANSWER, 1.0)
    memory.by_key["a"].used = 1
    memory.add("d", ANSWER, 1.0)
    assert set(memory.by_key) == {"a", "c", "d"}
    memory.add("e", ANSWER, 1.0)  # the hand goes on from where it was
    assert set(memory.by_key) == {"a", "d", "e"}


def test_the_hand_goes_round_when_everything_was_used() -> None:
    memory: Memory[Completion] = Memory(2, 10**6)
    for key in "ab":
        memory.add(key, ANSWER, 1.0)
        memory.by_key[key].used = 1
    memory.add("c", ANSWER, 1.0)
    assert set(memory.by_key) == {"b", "c"}
    assert memory.by_key["b"].swept == 1


def test_an_answer_larger_than_the_tier_replaces_what_its_key_held() -> None:
    memory: Memory[Completion] = Memory(3, 3000)
    memory.add("a", ANSWER, 1.0)
    assert memory.add("a", completion("x" * 5000, chunks=()), 1.0) is None
    assert len(memory) == 0


def test_a_new_answer_of_a_key_keeps_its_aliases() -> None:
    memory: Memory[Completion] = Memory(3, 10**6)
    held = memory.add("a", ANSWER, 1.0)
    assert held is not None
    memory.alias(("a", 1), held)
    again = memory.add("a", completion("new"), 1.0)
    assert memory.by_alias[("a", 1)] is again


def test_aliases_are_bounded_and_the_oldest_goes_first() -> None:
    memory: Memory[Completion] = Memory(3, 10**6)
    held = memory.add("a", ANSWER, 1.0)
    assert held is not None
    before = memory.size_bytes
    for number in range(ALIASES_PER_ENTRY + 3):
        memory.alias((number,), held)
        memory.alias((number,), held)
    assert list(memory.by_alias) == [(number,) for number in range(3, ALIASES_PER_ENTRY + 3)]
    assert memory.size_bytes == before + ALIASES_PER_ENTRY * deep_bytes((1,))


def test_an_alias_belongs_to_the_entry_that_had_it_last() -> None:
    memory: Memory[Completion] = Memory(3, 10**6)
    first, second = memory.add("a", ANSWER, 1.0), memory.add("b", ANSWER, 1.0)
    assert first is not None
    assert second is not None
    memory.alias((1,), first)
    memory.alias((True,), second)  # equal, of another type and size
    assert memory.by_alias[(1,)] is second
    check(memory)
    memory.discard("a")
    assert (1,) in memory.by_alias


def test_an_alias_that_does_not_fit_or_whose_entry_is_gone_is_not_kept() -> None:
    memory: Memory[Completion] = Memory(3, 3000)
    held = memory.add("a", ANSWER, 1.0)
    assert held is not None
    memory.alias(("x" * 5000,), held)
    memory.discard("a")
    memory.alias(("x",), held)
    assert memory.by_alias == {}


def test_sizes_count_every_part_of_an_answer() -> None:
    plain = held_bytes("k", completion("abc"))
    item = TokenLogprob(token_id=1, token=b"a", logprob=-1.0, top=((1, b"a", -1.0),))
    assert held_bytes("k", completion("abc", logprobs=(item,))) > plain + 300
    assert held_bytes("k", embedding(*range(1000))) > 4000 + ENTRY_BYTES
    assert held_bytes("k", "something else") < 1000


def test_the_answers_of_an_engine_that_was_replaced_are_found_by_key_only() -> None:
    memory: Memory[Completion] = Memory(10, 10**6)
    for key, fingerprint in (("a", "one"), ("b", "two")):
        held = memory.add(key, completion(fingerprint=fingerprint), 1.0)
        assert held is not None
        memory.alias(f"alias {key}", held)
    memory.switch("one", "two")
    check(memory)
    assert list(memory.by_alias) == ["alias b"]
    assert set(memory.by_key) == {"a", "b"}
    # Nor by an answer that was on its way.
    memory.alias("late", memory.by_key["a"])
    assert list(memory.by_alias) == ["alias b"]
    memory.switch("two", "one")
    memory.alias("again", memory.by_key["a"])
    check(memory)
    assert list(memory.by_alias) == ["again"]
