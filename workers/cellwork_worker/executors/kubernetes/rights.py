"""What a worker asks of the cluster's roles."""

from .api import Api

#: Verbs that the worker needs, by resource and subresource; k8s/ grants these.
NEEDED = {
    ("pods", ""): ("create", "get", "list", "watch", "delete"),
    ("pods", "log"): ("get",),
    ("secrets", ""): ("create",),
    ("events", ""): ("list", "watch"),
}


def missing(api: Api, namespace: str) -> list[str]:
    """Those that it does not have.

    Raises:
        EngineUnavailable, Refused
    """
    return [
        f"{verb} {resource}{'/' if sub else ''}{sub}"
        for (resource, sub), verbs in NEEDED.items()
        for verb in verbs
        if not api.may(namespace, verb, resource, sub)
    ]
