from __future__ import annotations

from gentle_protein.datasets.groups import components


def test_groups_that_share_a_member_are_joined_through_others():
    groups = {"a": ["1"], "b": ["1", "2"], "c": ["2"], "d": ["3"], "e": []}
    assert components(groups) == {"a": "a", "b": "a", "c": "a", "d": "d", "e": "e"}
