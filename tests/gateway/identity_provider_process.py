"""A real OpenID Connect provider (Canaille) over TLS, in a process of its own: what a state's single sign-on is in production.

Reads one JSON object from standard input: port, certificate, key, signing_keys (newest first; only the first one signs), clients, users.
Prints `ready` when it listens. Its memory is its database: a provider that starts again has the same users and other keys.
"""

import datetime
import json
import logging
import sys

from canaille import create_app
from canaille.app import models
from canaille.backends import Backend
from werkzeug.serving import make_server

orders = json.load(sys.stdin)
NOW = datetime.datetime.now(datetime.UTC)

app = create_app(
    config={
        "TESTING": True,
        "ENV_FILE": None,
        "SECRET_KEY": "not a secret: for tests",
        "WTF_CSRF_ENABLED": False,
        "PREFERRED_URL_SCHEME": "https",
        "SERVER_NAME": f"localhost:{orders['port']}",
        "OAUTH2_TOKEN_EXPIRES_IN": {"password": 3600, "refresh_token": -3600},
        "CANAILLE": {"DATABASE": "memory", "JAVASCRIPT": False, "ACL": {"DEFAULT": {"PERMISSIONS": ["use_oidc"]}}},
        "CANAILLE_OIDC": {
            "ACTIVE_JWKS": orders["signing_keys"][:1],
            "INACTIVE_JWKS": orders["signing_keys"][1:] or None,
        },
    }
)

with app.app_context():
    backend = Backend.instance
    users = {}
    for entry in orders["users"]:
        values = {key: value for key, value in entry.items() if key != "groups"}
        user = models.User(formatted_name=entry["user_name"], family_name=entry["user_name"], **values)
        backend.save(user)
        users[entry["user_name"]] = user
    for group in sorted({group for entry in orders["users"] for group in entry.get("groups", [])}):
        members = [users[entry["user_name"]] for entry in orders["users"] if group in entry.get("groups", [])]
        backend.save(models.Group(display_name=group, members=members))
    for name, secret in orders["clients"].items():
        client = models.Client(
            client_id=name,
            client_secret=secret,
            client_id_issued_at=NOW,
            client_name=name,
            grant_types=["password", "refresh_token", "authorization_code"],
            response_types=["code"],
            redirect_uris=["https://localhost/callback"],
            scope=["openid", "profile", "groups", "address"],
            id_token_signed_response_alg="RS256",
            token_endpoint_auth_method="client_secret_basic",
        )
        backend.save(client)
        backend.update(client, audience=[client])
        backend.save(client)


logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = make_server("127.0.0.1", orders["port"], app, threaded=True, ssl_context=(orders["certificate"], orders["key"]))
print("ready", flush=True)
server.serve_forever()
