"""The topic trie against a matcher that tries everything, and the memory it gives back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transports.engine import TopicTrie
from transports.engine.topic import REMEMBERED_KEYS, REMEMBERED_TARGETS, split_words

PATTERN_WORDS = st.sampled_from(["a", "b", "ab", "", "*", "#"])
KEY_WORDS = st.sampled_from(["a", "b", "ab", "", "*", "#", "other"])
PATTERNS = st.lists(PATTERN_WORDS, max_size=6).map(".".join)
KEYS = st.lists(KEY_WORDS, max_size=6).map(".".join)


def matches(pattern: list[str], key: list[str]) -> bool:
    if not pattern:
        return not key
    if pattern[0] == "#":
        return any(matches(pattern[1:], key[skipped:]) for skipped in range(len(key) + 1))
    if not key:
        return False
    return pattern[0] in ("*", key[0]) and matches(pattern[1:], key[1:])


@given(patterns=st.lists(PATTERNS, max_size=12), key=KEYS)
def test_a_key_finds_exactly_the_patterns_that_match_it(patterns: list[str], key: str) -> None:
    trie: TopicTrie[int] = TopicTrie()
    for number, pattern in enumerate(patterns):
        trie.add(pattern, number)

    found = list(trie.match(key))

    expected = {n for n, pattern in enumerate(patterns) if matches(split_words(pattern), split_words(key))}
    assert set(found) == expected
    assert len(found) == len(expected)


@given(
    changes=st.lists(st.tuples(st.booleans(), PATTERNS, st.integers(0, 2)), max_size=12),
    keys=st.lists(KEYS, min_size=1, max_size=3),
)
def test_each_change_counts_from_the_next_lookup(changes: list[tuple[bool, str, int]], keys: list[str]) -> None:
    trie: TopicTrie[int] = TopicTrie()
    pairs: set[tuple[str, int]] = set()
    for added, pattern, target in changes:
        (trie.add if added else trie.remove)(pattern, target)
        (pairs.add if added else pairs.discard)((pattern, target))
        for key in keys:
            expected = {one for known, one in pairs if matches(split_words(known), split_words(key))}
            assert (set(trie.match(key)), set(trie.match(key))) == (expected, expected)


def test_what_is_remembered_stays_small() -> None:
    trie: TopicTrie[int] = TopicTrie()
    for number in range(REMEMBERED_TARGETS + 1):
        trie.add("many.#", number)
    trie.add("#", -1)
    for number in range(3 * REMEMBERED_KEYS):
        assert trie.match(f"few.{number}") == (-1,)
        assert len(trie.match(f"many.{number}")) == REMEMBERED_TARGETS + 2
    assert sum(len(found) for found in trie._known.values()) <= REMEMBERED_KEYS


@given(
    pairs=st.lists(st.tuples(PATTERNS, st.integers(0, 3)), max_size=15),
    removed=st.lists(st.tuples(PATTERNS, st.integers(0, 3)), max_size=15),
    key=KEYS,
)
def test_removing_pairs_is_as_if_they_had_never_been_added(
    pairs: list[tuple[str, int]], removed: list[tuple[str, int]], key: str
) -> None:
    trie: TopicTrie[int] = TopicTrie()
    for pattern, target in pairs:
        trie.add(pattern, target)
    for pattern, target in removed + pairs[::2]:
        trie.remove(pattern, target)

    left = set(pairs) - set(removed) - set(pairs[::2])
    fresh: TopicTrie[int] = TopicTrie()
    for pattern, target in left:
        fresh.add(pattern, target)

    assert set(trie.match(key)) == set(fresh.match(key))
    assert count_nodes(trie) == count_nodes(fresh)


@given(pairs=st.lists(st.tuples(PATTERNS, st.integers(0, 3)), max_size=15))
def test_a_trie_emptied_of_its_pairs_holds_no_nodes(pairs: list[tuple[str, int]]) -> None:
    trie: TopicTrie[int] = TopicTrie()
    for pattern, target in pairs:
        trie.add(pattern, target)
    for pattern, target in pairs:
        trie.remove(pattern, target)

    assert count_nodes(trie) == 1


def count_nodes(trie: TopicTrie[int]) -> int:
    nodes = [trie._root]
    for node in nodes:
        nodes.extend(node.children.values())
    return len(nodes)


@pytest.mark.parametrize(
    ("pattern", "key", "expected"),
    [
        ("#", "", True),
        ("*", "", False),
        ("", "", True),
        ("", "a", False),
        ("*", ".", False),
        ("*.*", ".", True),
        ("a.*.b", "a..b", True),
        ("a.b", "a..b", False),
        ("#.b", "b", True),
        ("a.#", "a", True),
        ("a.#.#", "a", True),
        ("*.#", "", False),
        ("game.*.ended", "game.7.ended", True),
        ("game.*", "game.7.ended", False),
    ],
)
def test_words_are_read_as_rabbitmq_reads_them(pattern: str, key: str, expected: bool) -> None:
    trie: TopicTrie[str] = TopicTrie()
    trie.add(pattern, "target")

    assert bool(trie.match(key)) is expected


def test_many_hashes_do_not_make_a_lookup_explode() -> None:
    trie: TopicTrie[str] = TopicTrie()
    trie.add(".".join(["#", "a"] * 20), "never")

    # By trying every split this would take about 60 over 20 = 4e15 steps.
    assert not trie.match(".".join(["a"] * 60 + ["b"]))
