from __future__ import annotations

import pytest

from gentle_remote_sensing.datasets.names import KEYWORDS, UCM_CLASSES, Keywords, class_name, class_names, words


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("denseresidential", "a dense residential area"),  # UCM, RSICD
        ("DenseResidential", "a dense residential area"),  # AID
        ("dense_residential", "a dense residential area"),  # RESISC45
        ("BareLand", "bare land"),
        ("bareland", "bare land"),
        ("railwayStation", "a railway station"),  # WHU-RS19
        ("footballField", "a football field"),
        ("aGrass", "grass"),  # RSSCN7
        ("dRiverLake", "a river or lake"),
        ("fResident", "a residential area"),
        ("gParking", "a parking lot"),
        ("StorageTanks", "storage tanks"),
        ("overpass", "an overpass"),
        ("tennis_court", "a tennis court"),
        ("Airport", "an airport"),
        ("ground_track_field", "a ground track field"),
        ("buildings", "buildings"),
        ("agricultural", "agricultural land"),
        ("sea_ice", "sea ice"),
        ("river", "a river"),  # an r in front is part of the name
    ],
)
def test_folders_become_words(folder, name):
    assert class_name(folder) == name


def test_every_class_of_ucm_is_spelled_and_no_two_are_alike():
    names = class_names(UCM_CLASSES, {})
    assert len(UCM_CLASSES) == 21 == len(set(names.values()))
    assert all(" " in name or name in ("chaparral", "buildings") for name in names.values())
    assert class_names(["a", "b"], {"b": "ground"}) == {"a": "an a", "b": "ground"}
    assert words("Bare_Land-2") == "bare land 2"


def test_keywords_are_whole_words_in_either_number():
    found = Keywords(["park", "baseball field", "church", "tree"])
    assert found.row("Two Parks beside a base-ball field .").tolist() == [True, True, False, False]
    assert found.row("a parking lot and churches").tolist() == [False, False, True, False]
    assert found.row("").tolist() == [False] * 4
    assert found.row("street").sum() == 0
    assert len(set(KEYWORDS)) == len(KEYWORDS)
