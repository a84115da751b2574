"""Which executor and which queue a task goes to, and why. Pure."""

import inspect
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

import msgspec

from .quantity import format_bytes, parse_bytes, parse_cpus
from .spec import EXECUTORS, POD_FIELDS, ContainerSpec

#: The queue whose tasks become pods, as Airflow's CeleryKubernetesExecutor has it.
KUBERNETES_QUEUE = "kubernetes"

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
}
_COMPARISON = re.compile(r"\s*(>=|<=|==|>|<)?\s*(.+)")

#: What a rule and a threshold can look at, and how that is read.
_AMOUNTS: dict[str, Callable[[object], float]] = {
    "cpus": parse_cpus,
    "memory": parse_bytes,
    "gpus": float,  # type: ignore[dict-item]
    "time_limit": float,  # type: ignore[dict-item]
}
_GLOBS = ("task", "queue")


class Route(msgspec.Struct, frozen=True):
    """A decision. `queue`: None leaves it to Celery's own routes and default queue."""

    executor: str
    queue: str | None
    reason: str
    #: The task may as well go elsewhere: nobody asked for this executor.
    either_way: bool = False


class Asked(msgspec.Struct, frozen=True):
    """What is known of a task when it is sent. Rules of your own (``router=``) get this."""

    name: str
    #: What the task says of itself, and what this call says.
    declared: ContainerSpec = ContainerSpec()
    called: ContainerSpec = ContainerSpec()
    #: What it does not say itself, and its runs used: memory and cpus, where it learns.
    learned: ContainerSpec = ContainerSpec()
    #: All together, over the installation's defaults.
    spec: ContainerSpec = ContainerSpec()
    #: The explicit one of call or task.
    queue: str | None = None
    #: Seconds.
    time_limit: float | None = None
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = {}
    #: Names of its positional arguments, where the publisher has the task; see `parameters`.
    parameters: Sequence[str] = ()

    def argument(self, name: str) -> object:
        """Of that name, however it is passed, or at that position; None: there is none."""
        if name.isdigit():
            position = int(name)
        elif name in self.kwargs or name not in self.parameters:
            return self.kwargs.get(name)
        else:
            position = self.parameters.index(name)
        return self.args[position] if position < len(self.args) else None

    def amount(self, name: str) -> float | None:
        """Of processors, bytes, graphics cards or seconds; None: it does not say."""
        value = self.time_limit if name == "time_limit" else getattr(self.spec, name)
        return None if value is None else float(value)


class Comparison(msgspec.Struct, frozen=True):
    """Such as ``>=8g``."""

    sign: str
    value: Any

    def holds(self, found: object) -> bool:
        """False also where the two cannot be compared."""
        try:
            return found is not None and _COMPARISONS[self.sign](found, self.value)
        except TypeError:
            return False


class Rule(msgspec.Struct, frozen=True):
    """One ``[[cellwork.route]]``. All of its conditions must hold."""

    executor: str
    queue: str | None
    globs: tuple[tuple[str, str], ...]
    amounts: tuple[tuple[str, Comparison], ...]
    #: By the argument's name, or its position as text.
    arguments: tuple[tuple[str, Comparison], ...]
    text: str

    def matches(self, asked: Asked) -> bool:
        """True where it decides about this task."""
        names = {"task": asked.name, "queue": asked.queue or ""}
        return (
            all(fnmatchcase(names[name], glob) for name, glob in self.globs)
            and all(comparison.holds(asked.amount(name)) for name, comparison in self.amounts)
            and all(comparison.holds(asked.argument(name)) for name, comparison in self.arguments)
        )


@lru_cache(maxsize=1024)
def parameters(task: Any) -> tuple[str, ...]:
    """Names of the positional arguments of a task; none where it cannot be told, or `task` is None."""
    try:
        found = inspect.signature(task.run).parameters.values()
    except (AttributeError, TypeError, ValueError):
        return ()
    return tuple(one.name for one in found if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD))


def parse_rules(given: Any) -> tuple[Rule, ...]:
    """Rules as settings have them.

    Raises:
        ValueError: which rule, and what is accepted.
    """
    if not isinstance(given, list | tuple):
        raise ValueError("a list of rules is expected, such as {match = {memory = '>=8g'}, executor = 'kubernetes'}")
    return tuple(_rule(number, one) for number, one in enumerate(given))


def parse_heavy(given: Any) -> dict[str, float]:
    """Thresholds as settings have them: a task that asks for more is heavy.

    Raises:
        ValueError: which one, and what is accepted.
    """
    if not isinstance(given, Mapping) or not given.keys() <= _AMOUNTS.keys():
        raise ValueError(f"a mapping of {', '.join(_AMOUNTS)} to numbers or quantities is expected")
    try:
        return {name: float(_AMOUNTS[name](value)) for name, value in given.items()}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{error}") from None


def route(
    asked: Asked,
    rules: Sequence[Rule] = (),
    heavy: Mapping[str, float] | None = None,
    own: Callable[[Asked], Route | None] | None = None,
) -> Route:
    """Decide. The first of these that says something does: the call's executor, the task's, the explicit queue,
    the application's own function, the rules in their order, an option that only pods have, the thresholds, the
    installation's defaults.

    Args:
        asked: what is known of the task.
        rules: see `parse_rules`.
        heavy: see `parse_heavy`.
        own: the application's function; it gives None where the rules are to decide.
    """
    if asked.name.startswith("celery."):
        return Route("inline", None, "Celery's own task")
    for spec, where in ((asked.called, "in the call"), (asked.declared, "on the task")):
        if spec.executor is not None:
            return _to(spec.executor, asked.queue, f"executor={spec.executor!r} {where}")
    if asked.queue == KUBERNETES_QUEUE:
        return Route("kubernetes", None, f"queue={asked.queue!r}")
    if own is not None and (chosen := own(asked)) is not None:
        return chosen
    for rule in rules:
        if rule.matches(asked):
            return _to(rule.executor, asked.queue, f"rule {rule.text}", rule.queue)
    if (weighed := _weight(asked, heavy or {})) is not None:
        return weighed
    if (usual := asked.spec.executor) is not None:
        # Nobody named it: those who did have been heard.
        made = _to(usual, asked.queue, f"executor={usual!r} in the defaults")
        return msgspec.structs.replace(made, either_way=asked.queue is None)
    return Route("docker", None, "default", either_way=asked.queue is None)


def _weight(asked: Asked, heavy: Mapping[str, float]) -> Route | None:
    """The route of what can only be a pod, and of what is heavy."""
    for name in POD_FIELDS:
        if getattr(asked.called, name) is not None or getattr(asked.declared, name) is not None:
            return _to("kubernetes", asked.queue, f"{name} is for pods")
    for name, most in heavy.items():
        if (amount := asked.amount(name)) is not None and amount > most:
            learned = ", as its runs used" if getattr(asked.learned, name, None) is not None else ""
            reason = f"{name} {_shown(name, amount)} > {_shown(name, most)}{learned}"
            return msgspec.structs.replace(_to("kubernetes", asked.queue, reason), either_way=True)
    return None


def _to(executor: str, asked: str | None, reason: str, queue: str | None = None) -> Route:
    """An explicit queue stays; otherwise the rule's, or the one that pods have."""
    if asked is not None:
        return Route(executor, None, reason)
    return Route(executor, queue or (KUBERNETES_QUEUE if executor == "kubernetes" else None), reason)


def _shown(name: str, amount: float) -> str:
    if name == "memory":
        return format_bytes(int(amount))
    return f"{amount:g} s" if name == "time_limit" else f"{amount:g}"


def _rule(number: int, given: Any) -> Rule:
    where = f"rule {number + 1}"
    if not isinstance(given, Mapping) or not given.keys() <= {"match", "executor", "queue"} or "match" not in given:
        raise ValueError(f"{where}: match, executor and queue are its fields, and match must be there")
    executor, queue, match = given.get("executor", "docker"), given.get("queue"), given["match"]
    if executor not in EXECUTORS:
        raise ValueError(f"{where}: executor={executor!r}; one of {', '.join(EXECUTORS)} is expected")
    if queue is not None and not isinstance(queue, str):
        raise ValueError(f"{where}: queue={queue!r}; a name is expected")
    if not isinstance(match, Mapping) or not match:
        raise ValueError(f"{where}: match={match!r}; a mapping such as {{task = 'ml.*', memory = '>=8g'}} is expected")
    globs, amounts, arguments = [], [], []
    for name, value in match.items():
        if name in _GLOBS and isinstance(value, str):
            globs.append((name, value))
        elif name in _AMOUNTS:
            amounts.append((name, _comparison(where, name, value, _AMOUNTS[name])))
        elif name.startswith("args."):
            arguments.append((name.removeprefix("args."), _comparison(where, name, value, _number)))
        else:
            known = ", ".join((*_GLOBS, *_AMOUNTS, "args.NAME", "args.0"))
            raise ValueError(f"{where}: match has {name}={value!r}; it can have {known}")
    text = ", ".join(f"{name}={value}" for name, value in match.items())
    return Rule(executor, queue, tuple(globs), tuple(amounts), tuple(arguments), f"{number + 1} ({text})")


def _comparison(where: str, name: str, value: object, read: Callable[[object], Any]) -> Comparison:
    match = _COMPARISON.fullmatch(value) if isinstance(value, str) else None
    sign, amount = (match[1] or "==", match[2]) if match else ("==", value)
    try:
        return Comparison(sign, read(amount))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {name}={value!r}: {error}; a comparison such as '>=8' is expected") from None


def _number(value: object) -> object:
    """A number where it looks like one; arguments may be compared with text, too."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (ValueError, TypeError):
        return value
