"""What is to be kept in mind of a measurement, in the language of whoever reads it."""

import json

import pytest

from kivactl.runbooks.notes import Note, text_from

UNSEEN = Note("unseen", {"for_s": 4.2, "since_s": 12})


def test_a_note_is_kept_with_its_english_sentence_and_told_in_both_languages():
    kept = json.loads(json.dumps(UNSEEN.as_dict()))
    english = "The components could not be looked at for 4.2 s, from second 12 on: counted as degraded."
    assert kept["text"] == text_from(kept, "en") == english
    assert text_from(kept, "de") == "Die Komponenten waren 4,2 s lang nicht zu sehen, von Sekunde 12 an: als eingeschränkter Betrieb gezählt."


@pytest.mark.parametrize("language", ["en", "de"])
@pytest.mark.parametrize(
    ("kept", "told"),
    [
        ("the load generator was late by 3.0 ms", "the load generator was late by 3.0 ms"),
        ({"kind": "of a later version", "values": {}, "text": "something else"}, "something else"),
        ({"kind": "unseen", "values": {}, "text": "some time"}, "some time"),
        ({"kind": "late", "values": None, "text": "late"}, "late"),
        ({}, ""),
    ],
)
def test_what_another_version_has_kept_is_told_as_it_is(kept, told, language):
    assert text_from(kept, language) == told
