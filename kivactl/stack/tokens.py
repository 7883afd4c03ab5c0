"""Tokens: JSON Web Tokens signed with ES256, and the public keys that check them. Pure.

The gateway checks tokens with public keys alone, so it holds no secret that could leak.
Source: RFC 7519 (JWT), RFC 7517 (JWK), RFC 7638 (thumbprint).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from kivactl.stack.secret import Secret

AUDIENCE = "kiva"


def jwks_for(keys: Iterable[bytes]) -> dict[str, Any]:
    """The JSON Web Key Set of some private keys (PEM): their public halves, each named by its thumbprint."""
    return {"keys": [_jwk(key) for key in keys]}


def issue(
    key: bytes, *, platform: str, tenant: str, name: str, token_id: str, issued_at: datetime, lifetime: timedelta | None
) -> Secret:
    """Sign a token.

    There is no `nbf`: a clock that jumps backwards must not make a fresh token invalid.

    Args:
        key: Private key, PEM, ES256.
        platform: Becomes the issuer `kiva:<platform>`.
        tenant: The subject.
        name: What the token is for, in the words of who asked for it.
        token_id: Unique; how the token is listed and revoked.
        issued_at: Aware UTC.
        lifetime: Until it expires; None for never.
    """
    import jwt

    claims: dict[str, Any] = {
        "iss": f"kiva:{platform}",
        "aud": AUDIENCE,
        "sub": tenant,
        "jti": token_id,
        "name": name,
        "iat": int(issued_at.timestamp()),
    }
    if lifetime is not None:
        claims["exp"] = int((issued_at + lifetime).timestamp())
    return Secret(jwt.encode(claims, key.decode(), algorithm="ES256", headers={"kid": _jwk(key)["kid"]}))


def _jwk(key: bytes) -> dict[str, Any]:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    private = load_pem_private_key(key, password=None)
    if not isinstance(private, EllipticCurvePrivateKey):
        msg = "the signing key is no elliptic-curve key"
        raise ValueError(msg)
    numbers = private.public_key().public_numbers()
    required = {"crv": "P-256", "kty": "EC", "x": _base64(numbers.x), "y": _base64(numbers.y)}
    thumbprint = hashlib.sha256(json.dumps(required, sort_keys=True, separators=(",", ":")).encode()).digest()
    return {**required, "alg": "ES256", "use": "sig", "kid": base64.urlsafe_b64encode(thumbprint).rstrip(b"=").decode()}


def _base64(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes(32, "big")).rstrip(b"=").decode()
