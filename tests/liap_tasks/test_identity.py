"""The quick UUIDs are UUIDs, and those of names are the standard library's."""

from __future__ import annotations

from uuid import NAMESPACE_URL, RFC_4122, UUID, uuid5

from hypothesis import given
from hypothesis import strategies as st

from liap_tasks.identity import named_uuid, random_uuid


@given(st.uuids(), st.text())
def test_that_of_a_name_is_the_same_for_ever(space: UUID, name: str) -> None:
    assert named_uuid(space, name) == str(uuid5(space, name))
    assert named_uuid(NAMESPACE_URL, "a") == "e1407479-3136-56c0-9908-bb02fb0339e2"


def test_random_ones_are_all_different_and_of_version_4() -> None:
    made = [random_uuid() for _ in range(1000)]
    assert len(set(made)) == 1000
    for text in made:
        parsed = UUID(text)
        assert (str(parsed), parsed.version, parsed.variant) == (text, 4, RFC_4122)
    assert {text[19] for text in made} == set("89ab")
