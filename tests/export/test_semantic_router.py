"""The configuration for vLLM Semantic Router is sound, and says how near it comes to the policy."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from defer import OutcomeLog
from defer.estimators import QualityRouter
from defer.exceptions import RouterInputError
from defer.export import semantic_router_config
from defer.export.semantic_router_schema import check_configuration

WHERE = {"small": "10.0.0.1:8000", "medium": "10.0.0.2:8000", "large": "https://models.example.com:443"}
KINDS = {"code": ["computer science", "engineering"], "prose": ["other"]}


@pytest.fixture
def router(full_log: OutcomeLog) -> Any:
    return QualityRouter(cost_weight=6.0).fit(full_log.X, full_log.quality, cost=full_log.cost)


@pytest.fixture
def document(router: Any, full_log: OutcomeLog) -> Any:
    return semantic_router_config(router, full_log, endpoints=WHERE, categories=KINDS).document


def test_every_domain_takes_the_arm_of_highest_mean_utility(router: Any, full_log: OutcomeLog) -> None:
    found = semantic_router_config(router, full_log, endpoints=WHERE, categories=KINDS, prices={"large": (1.0, 3.0)})
    domain, utility = np.asarray(full_log.domain), router.predict_utility(full_log.X)
    taken = np.empty(len(domain), dtype=int)
    for name in ("code", "prose"):
        best = int(utility[domain == name].mean(axis=0).argmax())
        assert found.arm_of[name] == full_log.arms[best]
        taken[domain == name] = best
    rows = np.arange(len(taken))
    assert found.agreement == np.mean(router.predict(full_log.X) == router.arms_[taken])
    assert found.agreement > 0.5
    assert found.utility_lost == pytest.approx(float((utility.max(axis=1) - utility[rows, taken]).mean()))
    assert found.utility_lost >= 0
    signal = found.document["routing"]["signals"]["domains"][0]
    assert signal["mmlu_categories"] == KINDS["code"]
    expected = router.predict_quality(full_log.X)[domain == "code"].mean(axis=0)
    assert [score["score"] for score in signal["model_scores"]] == pytest.approx(expected.tolist(), abs=1e-6)
    backend = found.document["providers"]["models"][2]
    assert backend["backend_refs"][0]["protocol"] == "https"
    assert backend["backend_refs"][0]["endpoint"] == "models.example.com:443"
    assert backend["pricing"] == {"currency": "USD", "prompt_per_1m": 1.0, "completion_per_1m": 3.0}
    last = found.document["routing"]["decisions"][-1]
    assert (last["name"], last["priority"], last["rules"]["conditions"]) == ("default", 1, [])


def test_a_policy_of_the_domain_alone_is_met(full_log: OutcomeLog) -> None:
    log = replace(full_log, X=(np.asarray(full_log.domain) == "code").astype(float)[:, None])
    found = semantic_router_config(QualityRouter().fit(log.X, log.quality), log, endpoints=WHERE, categories=KINDS)
    assert (found.agreement, found.utility_lost) == (1.0, 0.0)
    assert found.agreement_by_domain == {"code": 1.0, "prose": 1.0}


def test_the_text_is_yaml(router: Any, full_log: OutcomeLog) -> None:
    yaml = pytest.importorskip("yaml")
    found = semantic_router_config(router, full_log, endpoints=WHERE, categories=KINDS, port=9000)
    assert yaml.safe_load(found.to_yaml()) == json.loads(found.to_yaml()) == found.document
    assert found.document["listeners"][0]["port"] == 9000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"endpoints": {"small": "a:1"}}, r"endpoints= lacks 2 of 3 arms, the first is 'medium'"),
        ({"endpoints": {**WHERE, "x": "a:1"}}, r"endpoints= names 'x', which is no arm of the router"),
        ({"prices": {"x": (1, 1)}}, r"prices= names 'x', which is no arm of the router"),
        ({"categories": None}, r"'code' is no category of the router, so say in categories="),
        ({"categories": {"code": ["law"], "prose": ["law"]}}, r"'law' stands for two domains, 'code' and 'prose'"),
    ],
)
def test_names_that_do_not_fit_are_told(options: Any, message: str, router: Any, full_log: OutcomeLog) -> None:
    with pytest.raises(RouterInputError, match=message):
        semantic_router_config(router, full_log, **{"endpoints": WHERE, "categories": KINDS, **options})


def test_a_log_needs_queries_and_domains(router: Any, full_log: OutcomeLog) -> None:
    for field, what in (("X", "queries"), ("domain", "domains")):
        with pytest.raises(RouterInputError, match=f"the log has no {what}"):
            semantic_router_config(router, replace(full_log, **{field: None}), endpoints=WHERE)


def changed(document: Any, path: list[Any], value: Any) -> Any:
    """A copy with one value replaced, or removed if it is `...`."""
    twin = copy.deepcopy(document)
    *above, last = path
    place = twin
    for step in above:
        place = place[step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return twin


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["version"], "v0.2", r"configuration.version: must be one of \['v0.3'\], got 'v0.2'"),
        (["routing", "decisions"], ..., r"configuration.routing: lacks 'decisions'"),
        (["routing", "extra"], 1, r"configuration.routing: has 'extra', which is not known"),
        (["listeners", 0, "port"], "80", r"configuration.listeners\[0\].port: must be int, got '80'"),
        (["listeners", 0, "port"], True, r"must be int, got True"),
        (["listeners"], {}, r"configuration.listeners: must be a list"),
        (["providers"], [], r"configuration.providers: must be a mapping"),
        (["providers", "defaults", "model"], "x", r"providers.defaults names the model 'x'"),
        (["routing", "decisions", 0, "modelRefs", 0, "model"], "x", r"decision 'domain-code' names the model 'x'"),
        (
            ["routing", "decisions", 0, "rules", "conditions", 0, "name"],
            "x",
            r"needs the domain 'x', which is not there",
        ),
        (["routing", "signals", "domains", 0, "mmlu_categories"], ["x"], r"domain 'code' has 'x', which is none of"),
    ],
)
def test_the_check_finds_what_is_wrong(path: list[Any], value: Any, message: str, document: Any) -> None:
    check_configuration(document)
    with pytest.raises(RouterInputError, match=message):
        check_configuration(changed(document, path, value))
