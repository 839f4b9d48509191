"""The part of vLLM Semantic Router's configuration that is written here, as types, and a check against them.

Version v0.3 of the format, as ``vllm-sr`` 0.4.0 validates it.
"""

# Annotations are evaluated here: as strings, TypedDict could not see which keys are not required.
import typing
from typing import Any, Literal, NotRequired, TypedDict, get_args, get_origin

from defer.exceptions import RouterInputError

__all__ = [
    "CATEGORIES",
    "Algorithm",
    "BackendRef",
    "Condition",
    "Configuration",
    "Decision",
    "Domain",
    "Listener",
    "ModelCard",
    "ModelRef",
    "ModelScore",
    "Pricing",
    "ProviderDefaults",
    "ProviderModel",
    "Providers",
    "Routing",
    "Rules",
    "Signals",
    "check_configuration",
]

CATEGORIES = (
    "biology", "business", "chemistry", "computer science", "economics", "engineering", "health", "history", "law", "math",
    "other", "philosophy", "physics", "psychology",
)  # fmt: skip
"""What its classifier of domains tells apart."""


class Listener(TypedDict):
    """Where requests come in."""

    name: str
    address: str
    port: int


class BackendRef(TypedDict):
    """Where a model is served."""

    name: str
    endpoint: str
    provider: str
    protocol: Literal["http", "https"]
    weight: int


class Pricing(TypedDict):
    """US dollars per million tokens."""

    currency: Literal["USD"]
    prompt_per_1m: float
    completion_per_1m: float


class ProviderModel(TypedDict):
    """A model that can be called."""

    name: str
    pricing: NotRequired[Pricing]
    backend_refs: list[BackendRef]


class ProviderDefaults(TypedDict):
    """What is called where no decision applies."""

    model: str


class Providers(TypedDict):
    """Models and where they are served."""

    defaults: ProviderDefaults
    models: list[ProviderModel]


class ModelScore(TypedDict):
    """How good a model is in a domain."""

    model: str
    score: float
    use_reasoning: bool


class Domain(TypedDict):
    """A kind of query that the classifier of domains finds."""

    name: str
    description: str
    mmlu_categories: list[str]
    model_scores: list[ModelScore]


class Condition(TypedDict):
    """A signal that must have fired."""

    type: Literal["domain"]
    name: str


class Rules(TypedDict):
    """When a decision applies; without conditions always."""

    operator: Literal["AND"]
    conditions: list[Condition]


class ModelRef(TypedDict):
    """A model that a decision takes."""

    model: str
    use_reasoning: bool


class Algorithm(TypedDict):
    """How a decision takes one of its models: static is the first."""

    type: Literal["static"]


class Decision(TypedDict):
    """Which model a kind of query goes to; the highest priority counts."""

    name: str
    description: str
    priority: int
    rules: Rules
    modelRefs: list[ModelRef]
    algorithm: Algorithm


class ModelCard(TypedDict):
    """A model by its name."""

    name: str


class Signals(TypedDict):
    """What is found out of a query."""

    domains: list[Domain]


class Routing(TypedDict):
    """Signals and decisions."""

    modelCards: list[ModelCard]
    signals: Signals
    decisions: list[Decision]


class Configuration(TypedDict):
    """The whole file."""

    version: Literal["v0.3"]
    listeners: list[Listener]
    providers: Providers
    routing: Routing


def check_configuration(document: Any) -> None:
    """Hold a configuration against the types, and its names against each other.

    Parameters
    ----------
    document : dict

    Raises
    ------
    RouterInputError
        Names the first place that is not as it must be.

    Examples
    --------
    >>> check_configuration({"version": "v0.2"})
    Traceback (most recent call last):
    ...
    defer.exceptions.RouterInputError: configuration: lacks 'listeners'
    """
    _check(document, Configuration, "configuration")
    models = {model["name"] for model in document["providers"]["models"]}
    domains = {domain["name"]: domain for domain in document["routing"]["signals"]["domains"]}
    used = [("providers.defaults", document["providers"]["defaults"]["model"])]
    for place, domain in domains.items():
        used += [(f"domain {place!r}", score["model"]) for score in domain["model_scores"]]
        wrong = [name for name in domain["mmlu_categories"] if name not in CATEGORIES]
        if wrong:
            raise RouterInputError(
                f"configuration: domain {place!r} has {wrong[0]!r}, which is none of {list(CATEGORIES)}"
            )
    for decision in document["routing"]["decisions"]:
        used += [(f"decision {decision['name']!r}", ref["model"]) for ref in decision["modelRefs"]]
        for condition in decision["rules"]["conditions"]:
            if condition["name"] not in domains:
                raise RouterInputError(
                    f"configuration: decision {decision['name']!r} needs the domain {condition['name']!r}, which is not there"
                )
    for place, model in used:
        if model not in models:
            raise RouterInputError(
                f"configuration: {place} names the model {model!r}, which is not among {sorted(models)}"
            )


def _check(value: Any, kind: Any, place: str) -> None:
    if typing.is_typeddict(kind):
        if not isinstance(value, dict):
            raise RouterInputError(f"{place}: must be a mapping, got {value!r}")
        hints = typing.get_type_hints(kind)
        missing = sorted(kind.__required_keys__ - set(value), key=list(hints).index)
        if missing:
            raise RouterInputError(f"{place}: lacks {missing[0]!r}")
        extra = sorted(set(value) - set(hints))
        if extra:
            raise RouterInputError(f"{place}: has {extra[0]!r}, which is not known; known are {list(hints)}")
        for name, part in value.items():
            _check(part, hints[name], f"{place}.{name}")
    elif get_origin(kind) is list:
        if not isinstance(value, list):
            raise RouterInputError(f"{place}: must be a list, got {value!r}")
        for index, part in enumerate(value):
            _check(part, get_args(kind)[0], f"{place}[{index}]")
    elif get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise RouterInputError(f"{place}: must be one of {list(get_args(kind))}, got {value!r}")
    else:
        allowed = (int, float) if kind is float else kind
        if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
            raise RouterInputError(f"{place}: must be {kind.__name__}, got {value!r}")
