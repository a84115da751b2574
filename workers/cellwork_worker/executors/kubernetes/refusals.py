"""What the API server answers instead of "yes" → an error of the taxonomy. Pure."""

import msgspec

from cellwork.errors import CellworkError, EngineUnavailable, InvalidSpec, PolicyViolation

from .objects import Refusal

#: Worth asking again: too many requests, or a moment's trouble of the server.
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})


def refusal(body: bytes) -> Refusal:
    """The server's answer; its text where it is no Status."""
    try:
        return msgspec.json.decode(body, type=Refusal)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Refusal(message=body[:500].decode("utf-8", "replace").strip())


def error(doing: str, status: int, said: Refusal) -> CellworkError:
    """`doing`: completes "the API server refuses …", with the task's name in it."""
    message = said.message or said.reason or f"HTTP {status}"
    if status in TRANSIENT:
        return EngineUnavailable(f"the API server has trouble, {doing}: {message}")
    if status == 401:
        return EngineUnavailable(f"the API server does not know this worker, {doing}: {message}. Check its credentials")
    if status == 403 and "exceeded quota" in message:
        # Room comes back as other pods end.
        return EngineUnavailable(f"the namespace's quota has no room, {doing}: {message}")
    if status == 403:
        # Of RBAC, admission and Pod Security; the sentence says which, and what is wrong.
        return PolicyViolation(f"the cluster refuses, {doing}: {message}")
    return InvalidSpec(f"the API server does not accept it, {doing}: {message}")
