"""Tokens of invitation links: signed, expiring, not to be had from the ledger. Pure.

    token = id.expiry.secret.signature       signature = HMAC-SHA256(key, id.expiry.secret)

The ledger keeps SHA-256(token). The secret has 256 random bits, so neither the key nor the hash is
enough to make a link that is let in.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime

from data.errors import UserError

_TOKEN = re.compile(r"[0-9a-f]{16}\.\d{1,12}\.[\w-]{43}\.[0-9a-f]{64}", re.ASCII)


class BadInvitation(UserError):
    """A link that is forged, cut off, expired or revoked."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What a genuine token says."""

    invitation_id: str
    token_hash: str
    expires_at: int
    """Seconds since 1970."""


def make_token(key: str, expires_at: float) -> tuple[str, Claim]:
    """A new token, and what the ledger keeps of it."""
    said = f"{secrets.token_hex(8)}.{int(expires_at)}.{secrets.token_urlsafe(32)}"
    token = f"{said}.{_signature(key, said)}"
    return token, _claim(token)


def read_token(key: str, token: str, now: float) -> Claim:
    """What a token claims; whether it was revoked, only the ledger knows.

    Raises:
        BadInvitation: it is not signed with this key, or has expired.
    """
    said, _, signature = token.rpartition(".")
    genuine = hmac.compare_digest(
        _signature(key, said).encode(), signature.encode("utf-8", "replace")
    )
    if not (_TOKEN.fullmatch(token) and genuine):
        raise BadInvitation("this invitation link is not one of ours; check that it is complete")
    claim = _claim(token)
    if now >= claim.expires_at:
        raise BadInvitation("this invitation link has expired; ask a manager for a new one")
    return claim


def expiry_of(token: str) -> datetime:
    """When a genuine token expires."""
    return datetime.fromtimestamp(_claim(token).expires_at, UTC)


def link(address: str, token: str) -> str:
    """What a person opens in their browser."""
    return f"{address.rstrip('/')}/enter#{token}"


def _claim(token: str) -> Claim:
    invitation_id, expires, *_ = token.split(".")
    return Claim(
        invitation_id=invitation_id,
        token_hash=hashlib.sha256(token.encode()).hexdigest(),
        expires_at=int(expires),
    )


def _signature(key: str, said: str) -> str:
    return hmac.new(key.encode(), said.encode("utf-8", "replace"), hashlib.sha256).hexdigest()
