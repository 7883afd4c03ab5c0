"""Takes what looks like a secret out of a text before it is shown or kept: signed tokens, private keys, passwords."""

from __future__ import annotations

import re

_SCHEME = r"(?:(?:bearer|basic)\s+)?"
_SIGN = r"['\"]?\s{0,2}[:=]\s{0,2}['\"]?"
"""Between a name and its value; a sentence that merely speaks of a password has none."""
_VALUE = r"[^\s'\",;*]{6,}"
_SECRETS = (
    (re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]*"), "***"),  # a signed token
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), "***"),
    (re.compile(rf"(?i)\b(authorization|bearer)(\W{{1,4}}{_SCHEME})(?!bearer\b|basic\b){_VALUE}"), r"\1\2***"),
    (re.compile(rf"(?i)((?:\b|_)(?:password|passwd|passphrase|api[_-]?key|access[_-]?key|secret))({_SIGN}){_VALUE}"), r"\1\2***"),
    (re.compile(r"(\w://[^\s/:@]*):[^\s/@]+@"), r"\1:***@"),
)


def redacted(text: str) -> str:
    """A text without what looks like a secret."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text
