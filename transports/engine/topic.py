"""Which bindings of a topic exchange a routing key matches: a trie over the words of the patterns.

AMQP 0-9-1, 3.1.3.3, read as RabbitMQ reads it: words are separated by dots; ``*`` stands for exactly one word,
``#`` for zero or more; a word may be empty (``a..b`` has three words, ``.`` two); the empty key has no words at all,
so ``#`` matches it and ``*`` does not.

The cost of a lookup follows the words of the key and the branches that match, not the number of bindings. A node is
visited once per position of the key, so patterns with many ``#`` cannot make it explode. What a key was found to match
is remembered until the next change: a program has few routing keys and uses them again and again.
"""

from __future__ import annotations

from typing import Generic, TypeVar

__all__ = ["TopicTrie", "split_words"]

Target = TypeVar("Target")

REMEMBERED_KEYS = 512
REMEMBERED_TARGETS = 64
"""Of one key; a longer answer is found anew each time, so that what is remembered stays small."""


def split_words(key: str) -> list[str]:
    """Return the words of a routing key or pattern; the empty string has none."""
    return key.split(".") if key else []


class _Node(Generic[Target]):
    __slots__ = ("children", "targets")

    def __init__(self) -> None:
        self.children: dict[str, _Node[Target]] = {}
        self.targets: dict[Target, None] = {}


class TopicTrie(Generic[Target]):
    """A set of (pattern, target) pairs; targets are hashable. Threads may look up while one changes it."""

    __slots__ = ("_known", "_root")

    def __init__(self) -> None:
        self._root: _Node[Target] = _Node()
        # Replaced after each change: a lookup that is under way then remembers its answer in the old one, for nobody.
        self._known: dict[str, tuple[Target, ...]] = {}

    def add(self, pattern: str, target: Target) -> None:
        """Add a pair; adding it again changes nothing."""
        node = self._root
        for word in split_words(pattern):
            child = node.children.get(word)
            if child is None:
                child = node.children[word] = _Node()
            node = child
        node.targets[target] = None
        self._known = {}

    def remove(self, pattern: str, target: Target) -> None:
        """Remove a pair and the branches that nothing else uses; an unknown pair changes nothing."""
        path = [self._root]
        words = split_words(pattern)
        for word in words:
            child = path[-1].children.get(word)
            if child is None:
                return
            path.append(child)
        path[-1].targets.pop(target, None)
        for parent, word, node in reversed(list(zip(path, words, path[1:], strict=False))):
            if node.targets or node.children:
                break
            del parent.children[word]
        self._known = {}

    def match(self, key: str) -> tuple[Target, ...]:
        """Return the targets whose pattern matches ``key``, each once, in a stable order."""
        known = self._known
        found = known.get(key)
        if found is None:
            found = tuple(self._find(key))
            if len(found) <= REMEMBERED_TARGETS:
                if len(known) >= REMEMBERED_KEYS:
                    known.clear()
                known[key] = found
        return found

    def _find(self, key: str) -> dict[Target, None]:
        words = split_words(key)
        end = len(words)
        found: dict[Target, None] = {}
        seen: set[tuple[int, int]] = set()
        stack: list[tuple[_Node[Target], int]] = [(self._root, 0)]
        while stack:
            node, index = stack.pop()
            rest = node.children.get("#")
            if rest is not None:
                for position in range(index, end + 1):
                    state = (id(rest), position)
                    if state not in seen:
                        seen.add(state)
                        stack.append((rest, position))
            if index == end:
                found.update(node.targets)
                continue
            child = node.children.get(words[index])
            if child is not None and words[index] != "#":
                stack.append((child, index + 1))
            if words[index] != "*":
                child = node.children.get("*")
                if child is not None:
                    stack.append((child, index + 1))
        return found
