"""A fitted policy as a configuration of vLLM Semantic Router: one model for every domain of queries.

Its decisions rest on signals of its own, of which the domain of a query is the one that a log has, too.  So the configuration
is the best policy that depends on the domain alone, by the predictions of the router; how often that agrees with the router is
measured on the log and told.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from defer.exceptions import RouterInputError
from defer.export.parts import check_policy
from defer.export.semantic_router_schema import CATEGORIES, Configuration, check_configuration
from defer.portfolios.outcomes import OutcomeLog

__all__ = ["SemanticRouterConfig", "semantic_router_config"]


@dataclass(frozen=True)
class SemanticRouterConfig:
    """A configuration, and how near it comes to the policy that it stands for.

    Attributes
    ----------
    document : dict
        Of the form `Configuration`.
    arm_of : dict of str to str
        Arm of every domain.
    agreement : float
        Share of the logged queries on which it takes the arm that the policy takes; where the router recognises every domain,
        and less where it does not.
    agreement_by_domain : dict of str to float
    utility_lost : float
        Mean utility, as the policy predicts it, that is lost on the log.

    Examples
    --------
    >>> SemanticRouterConfig({"version": "v0.3"}, {}, 1.0, {}, 0.0).to_yaml()
    '{\\n  "version": "v0.3"\\n}\\n'
    """

    document: Configuration | dict[str, Any] = field(repr=False)
    arm_of: dict[str, str]
    agreement: float
    agreement_by_domain: dict[str, float]
    utility_lost: float

    def to_yaml(self) -> str:
        """Text of ``config.yaml``: JSON, which is YAML, too."""
        return json.dumps(self.document, indent=2, ensure_ascii=False) + "\n"


def semantic_router_config(
    router: Any,
    log: OutcomeLog,
    *,
    endpoints: Mapping[Any, str],
    categories: Mapping[str, Sequence[str]] | None = None,
    prices: Mapping[Any, tuple[float, float]] | None = None,
    port: int = 8899,
) -> SemanticRouterConfig:
    """Configuration of vLLM Semantic Router that approximates a policy.

    Parameters
    ----------
    router : fitted router or pipeline
    log : OutcomeLog
        Queries with a domain; outcomes are not read.
    endpoints : mapping of arm to str
        ``host:port`` at which the model is served, with ``https://`` before it for TLS.
    categories : mapping of str to sequence of str, optional
        Which of the router's fourteen categories (`CATEGORIES`) a domain of the log stands for.  Default the category of
        the same name.
    prices : mapping of arm to (float, float), optional
        US dollars per million prompt and completion tokens; for display.
    port : int, default=8899
        Of the listener.

    Returns
    -------
    SemanticRouterConfig

    Raises
    ------
    RouterInputError
        If `router` is no fitted router, the log has no queries or domains, a domain is no category, a category stands for two domains, an arm has no endpoint,
        or names do not fit.

    Notes
    -----
    Of every domain the scores of the models are the means of the predicted qualities, cut to [0, 1], and the decision takes the
    arm of the highest mean utility at the router's own cost weight or operating point; ties go to the cheaper arm.  Queries of
    no such domain take the arm that is best over the whole log.  Format v0.3, checked against ``vllm-sr`` 0.4.0.

    Examples
    --------
    >>> from defer.estimators import QualityRouter
    >>> X, quality = np.array([[0.0], [0.1], [0.9], [1.0]]), [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    >>> log = OutcomeLog.from_arrays(X, quality, arms=["small", "large"], domain=["law", "law", "math", "math"])
    >>> router = QualityRouter().fit(log.X, log.quality)
    >>> found = semantic_router_config(router, log, endpoints={"small": "a:8000", "large": "b:8000"})
    >>> found.arm_of, found.agreement
    ({'law': 'small', 'math': 'large'}, 1.0)
    """
    check_policy(router)
    if not isinstance(log, OutcomeLog):
        raise RouterInputError(f"semantic_router_config: log must be an OutcomeLog, got {type(log).__name__}")
    if log.X is None or log.domain is None:
        raise RouterInputError(f"semantic_router_config: the log has no {'queries' if log.X is None else 'domains'}")
    arms = [str(arm) for arm in router.arms_.tolist()]
    addresses = {str(arm): address for arm, address in endpoints.items()}
    _check_names(arms, addresses, "endpoints", every=True)
    costs = {str(arm): price for arm, price in (prices or {}).items()}
    _check_names(arms, costs, "prices", every=False)
    routing = router.route(log.X, random_state=0)
    utility, quality, cost = (np.asarray(table) for table in _tables(routing))
    domain = np.array([str(name) for name in log.domain])
    names = sorted(set(domain.tolist()))
    found = _categories(names, categories)
    chosen = {name: _best(utility, cost, domain == name) for name in names}
    default = _best(utility, cost, np.ones(len(domain), dtype=bool))
    taken = np.array([chosen[name] for name in domain])
    same = taken == routing.arm
    rows = np.arange(len(taken))
    lost = float(np.mean(utility[rows, routing.arm] - utility[rows, taken]))
    scores = {name: np.clip(quality[domain == name].mean(axis=0), 0.0, 1.0) for name in names}
    document = {
        "version": "v0.3",
        "listeners": [{"name": f"http-{port}", "address": "0.0.0.0", "port": port}],
        "providers": {
            "defaults": {"model": arms[default]},
            "models": [_model(arm, addresses[arm], costs.get(arm)) for arm in arms],
        },
        "routing": {
            "modelCards": [{"name": arm} for arm in arms],
            "signals": {"domains": [_domain(name, found[name], arms, scores[name]) for name in names]},
            "decisions": [
                *(_decision(f"{name} queries", arms[chosen[name]], name) for name in names),
                _decision("all other queries", arms[default], None),
            ],
        },
    }
    check_configuration(document)
    by_domain = {name: float(same[domain == name].mean()) for name in names}
    arm_of = {name: arms[chosen[name]] for name in names}
    return SemanticRouterConfig(cast(Configuration, document), arm_of, float(same.mean()), by_domain, lost)


def _tables(routing: Any) -> tuple[NDArray[Any], ...]:
    # A share of 0 or 1 adds an infinite bonus, of which there is no mean.
    utility = np.clip(routing.utility, -1e12, 1e12)
    return utility, routing.predicted_quality, routing.predicted_cost


def _check_names(arms: list[str], given: Mapping[str, Any], option: str, *, every: bool) -> None:
    missing = [arm for arm in arms if every and arm not in given]
    unknown = [arm for arm in given if arm not in arms]
    if missing:
        raise RouterInputError(
            f"semantic_router_config: {option}= lacks {len(missing)} of {len(arms)} arms, the first is {missing[0]!r}"
        )
    if unknown:
        raise RouterInputError(
            f"semantic_router_config: {option}= names {unknown[0]!r}, which is no arm of the router; it has {arms}"
        )


def _categories(names: list[str], given: Mapping[str, Sequence[str]] | None) -> dict[str, list[str]]:
    found = {name: list((given or {}).get(name, [name])) for name in names}
    stands_for: dict[str, str] = {}
    for name, kinds in found.items():
        wrong = [kind for kind in kinds if kind not in CATEGORIES]
        if wrong:
            raise RouterInputError(
                f"semantic_router_config: {wrong[0]!r} is no category of the router, so say in categories= which of "
                f"{list(CATEGORIES)} the domain {name!r} stands for"
            )
        for kind in kinds:
            if kind in stands_for:
                raise RouterInputError(
                    f"semantic_router_config: the category {kind!r} stands for two domains, {stands_for[kind]!r} and {name!r}"
                )
            stands_for[kind] = name
    return found


def _best(utility: NDArray[Any], cost: NDArray[Any], rows: NDArray[np.bool_]) -> int:
    return int(np.lexsort((cost[rows].mean(axis=0), -utility[rows].mean(axis=0)))[0])


def _model(arm: str, address: str, price: tuple[float, float] | None) -> dict[str, Any]:
    scheme, _, rest = address.rpartition("://")
    backend = {"name": f"{arm}-1", "endpoint": rest, "provider": "vllm", "protocol": scheme or "http", "weight": 100}
    model: dict[str, Any] = {"name": arm}
    if price is not None:
        model["pricing"] = {"currency": "USD", "prompt_per_1m": price[0], "completion_per_1m": price[1]}
    return {**model, "backend_refs": [backend]}


def _domain(name: str, kinds: list[str], arms: list[str], scores: NDArray[Any]) -> dict[str, Any]:
    rated = [
        {"model": arm, "score": round(float(score), 6), "use_reasoning": False}
        for arm, score in zip(arms, scores, strict=True)
    ]
    return {"name": name, "description": f"Queries of {name}.", "mmlu_categories": kinds, "model_scores": rated}


def _decision(description: str, arm: str, domain: str | None) -> dict[str, Any]:
    conditions = [] if domain is None else [{"type": "domain", "name": domain}]
    return {
        "name": "default" if domain is None else f"domain-{domain.replace(' ', '-')}",
        "description": description[0].upper() + description[1:] + ".",
        "priority": 1 if domain is None else 100,
        "rules": {"operator": "AND", "conditions": conditions},
        "modelRefs": [{"model": arm, "use_reasoning": False}],
        "algorithm": {"type": "static"},
    }
