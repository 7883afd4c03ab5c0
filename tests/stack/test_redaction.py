"""What looks like a secret leaves a text; everything else stays."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kivactl.stack.redaction import redacted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: Basic ***"),
        ("KIVA_BACKUP_PASSWORD=hunter22", "KIVA_BACKUP_PASSWORD=***"),
        ("AWS_SECRET_ACCESS_KEY=abcdefg123", "AWS_SECRET_ACCESS_KEY=***"),
        ("passphrase: correct-horse", "passphrase: ***"),
        ('{"password": "hunter22"}', '{"password": "***"}'),
        ("KIVA_BACKUP_PASSWORD_FILE=/etc/kiva/word", "KIVA_BACKUP_PASSWORD_FILE=/etc/kiva/word"),
        ("wrong password or no key found", "wrong password or no key found"),
        ("the token of tenant 'hr' has run out", "the token of tenant 'hr' has run out"),
    ],
)
def test_cases(text, shown):
    assert redacted(text) == shown


@given(st.text(max_size=60))
def test_it_is_done_once(text):
    assert redacted(redacted(text)) == redacted(text)


BEFORE = ["password=", "API_KEY: ", "Bearer ", "Authorization: Basic ", "x_secret='"]


@given(st.text(string.ascii_letters + string.digits, min_size=8, max_size=40), st.sampled_from(BEFORE))
def test_a_secret_never_stays(secret, before):
    if secret.lower() not in before.lower():
        assert secret not in redacted(f"a {before}{secret} b")
