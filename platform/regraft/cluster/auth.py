"""The token of a cluster, found where Ray looks for it, without importing Ray."""

from __future__ import annotations

import os
from pathlib import Path

from regraft.errors import RequestError


def auth_header() -> dict[str, str]:
    """Return the HTTP header that carries the token; empty without a token, or when none is to be sent."""
    mode = os.environ.get("RAY_AUTH_MODE", "").lower()
    if mode == "disabled":
        return {}
    token = os.environ.get("RAY_AUTH_TOKEN", "")
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or ("~/.ray/auth_token" if mode == "token" else "")
    if not token and path:
        try:
            token = Path(path).expanduser().read_text(encoding="utf-8").strip()
        except OSError as error:
            if os.environ.get("RAY_AUTH_TOKEN_PATH"):
                raise RequestError(f"{path} cannot be read: {error.strerror}", where="RAY_AUTH_TOKEN_PATH") from None
    return {"Authorization": f"Bearer {token}"} if token else {}


def status_help(status: int) -> str:
    """Return what to do about a dashboard that answers with this HTTP status."""
    if status == 401:
        return "the cluster asks for a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH)"
    if status == 403:
        return "the cluster does not know this token: `ray get-auth-token` on its head prints the right one"
    return f"it answers {status}, not as a Ray dashboard does: give the dashboard's address, http://head:8265"
