"""Passwords as secrets that tell whether a password is right, and not what it is."""

import base64
import hashlib
import hmac
import secrets

_COST, _BLOCK, _LANES = 1 << 14, 8, 1  # 16 MiB and some 50 ms
_SALT_BYTES, _KEY_BYTES = 16, 32
_NOBODY = "scrypt$16384$8$1$AAAAAAAAAAAAAAAAAAAAAA==$" + base64.b64encode(bytes(32)).decode()


def make_secret(password: str) -> str:
    """Return the secret of a password, another one each time.

    Source: scrypt, RFC 7914.
    """
    salt = secrets.token_bytes(_SALT_BYTES)
    key = _key(password, salt, _COST, _BLOCK, _LANES)
    return f"scrypt${_COST}${_BLOCK}${_LANES}${_text(salt)}${_text(key)}"


def is_password(password: str, secret: str | None) -> bool:
    """Return whether a secret is that of a password; None: of nobody, which takes as long."""
    _, cost, block, lanes, salt, key = (secret or _NOBODY).split("$")
    found = _key(password, base64.b64decode(salt), int(cost), int(block), int(lanes))
    return hmac.compare_digest(found, base64.b64decode(key)) and secret is not None


def _key(password: str, salt: bytes, cost: int, block: int, lanes: int) -> bytes:
    return hashlib.scrypt(
        password.encode(), salt=salt, n=cost, r=block, p=lanes, dklen=_KEY_BYTES,
        maxmem=256 * cost * block,
    )  # fmt: skip


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
