"""Tokens: JWTs signed with ES256. The gateway checks them with the public half of the key; it holds no secret.

There is no `nbf`: a clock that jumps back must not shut out a token just issued.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from kivactl.errors import PreconditionError
from kivactl.stack.gateway.access import AUDIENCE
from kivactl.stack.secret import Secret

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

ALGORITHM = "ES256"
_COORDINATE_BYTES = 32


def jwks_for(keys: Iterable[bytes]) -> dict[str, Any]:
    """The public keys as a JSON Web Key Set.

    Args:
        keys: PEM of public keys, or of private ones, of which only the public half is taken; the newest first.

    Returns:
        `{"keys": [...]}` in the order given, each key once.

    Raises:
        PreconditionError: One is not a key for ES256.
    """
    unique = {jwk["kid"]: jwk for jwk in map(_jwk, map(_public_key, keys))}
    return {"keys": list(unique.values())}


def issue(
    key: bytes,
    *,
    platform: str,
    tenant: str,
    name: str,
    token_id: str,
    issued_at: datetime,
    lifetime: timedelta | None,
) -> Secret:
    """Sign a token.

    Args:
        key: PEM of the private key.
        platform: Whose token it is: the issuer is `kiva:<platform>`.
        tenant: The subject.
        name: What the token is for, for people.
        token_id: Unique; by it the token is recognised in the gateway's log.
        issued_at: Aware time.
        lifetime: How long it is valid; None for no end.

    Raises:
        PreconditionError: The key is not a private key for ES256.
        ValueError: `issued_at` is naive, or the lifetime is not positive.
    """
    if issued_at.tzinfo is None or (lifetime is not None and lifetime <= timedelta(0)):
        msg = "a token needs an aware time of issue and a positive lifetime"
        raise ValueError(msg)
    import jwt

    private = _private_key(key)
    issued_s = int(issued_at.timestamp())
    claims: dict[str, Any] = {"iss": f"kiva:{platform}", "aud": AUDIENCE, "sub": tenant, "jti": token_id, "name": name, "iat": issued_s}
    if lifetime is not None:
        claims["exp"] = issued_s + max(1, int(lifetime.total_seconds()))
    return Secret(jwt.encode(claims, private, algorithm=ALGORITHM, headers={"kid": _jwk(private.public_key())["kid"]}))


def _jwk(key: EllipticCurvePublicKey) -> dict[str, str]:
    """The key with its RFC 7638 thumbprint: the hash of the required members, in this order, without blanks."""
    numbers = key.public_numbers()
    members = {"crv": "P-256", "kty": "EC", "x": _coordinate(numbers.x), "y": _coordinate(numbers.y)}
    thumbprint = hashlib.sha256(json.dumps(members, separators=(",", ":")).encode()).digest()
    return {**members, "alg": ALGORITHM, "use": "sig", "kid": _base64url(thumbprint)}


def _private_key(pem: bytes) -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        raise _damaged() from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _damaged()
    return key


def _public_key(pem: bytes) -> EllipticCurvePublicKey:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if b"PRIVATE KEY" in pem:
        return _private_key(pem).public_key()
    try:
        key = load_pem_public_key(pem)
    except ValueError:
        raise _damaged() from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _damaged()
    return key


def _damaged() -> PreconditionError:
    return PreconditionError("the key for tokens is damaged or not for ES256 (ECDSA on P-256)", "kivactl provision")


def _coordinate(number: int) -> str:
    return _base64url(number.to_bytes(_COORDINATE_BYTES, "big"))


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
