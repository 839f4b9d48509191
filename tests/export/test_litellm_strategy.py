"""The strategy picks deployments as LiteLLM's routing hook asks for them."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from defer import make_pipeline
from defer.estimators import QualityRouter
from defer.exceptions import RouterInputError
from defer.export import DeferRoutingStrategy, litellm_router
from defer.export.litellm_strategy import last_user_text
from defer.portfolios.arm_matrix import ArmMatrix

# Parameters of the hook in LiteLLM 1.110.2.
HOOK = ["self", "model", "messages", "input", "specific_deployment", "request_kwargs"]


@pytest.fixture
def policy() -> Any:
    texts = ["add 1 and 2", "write a poem", "add 5 and 6", "write a song"]
    quality = ArmMatrix([[1.0, 0.5], [0.0, 1.0]] * 2, arms=["small", "large"])
    return make_pipeline(TfidfVectorizer(), QualityRouter()).fit(texts, quality, cost=np.tile([1.0, 2.0], (4, 1)))


def deployment(model: str, name: str = "auto", **info: Any) -> dict[str, Any]:
    return {"model_name": name, "litellm_params": {"model": model}, "model_info": info}


def ask(text: Any) -> list[dict[str, Any]]:
    return [{"role": "system", "content": "write"}, {"role": "user", "content": text}]


def test_every_request_goes_to_the_policy_s_arm(policy: Any) -> None:
    strategy = litellm_router(policy, [deployment("openai/small"), deployment("vllm/large")])
    for text in ("add 3 and 4", "write a letter"):
        found = strategy.get_available_deployment("auto", messages=ask(text))
        assert found["litellm_params"]["model"].endswith(policy.predict([text])[0])
        assert asyncio.run(strategy.async_get_available_deployment("auto", messages=ask(text))) is found
        assert strategy.get_available_deployment("auto", input=text) is found
        assert strategy.get_available_deployment("auto", input=[text]) is found


def test_deployments_are_found_by_id_model_or_name_behind_a_provider(policy: Any) -> None:
    listed = [deployment("openai/gpt", id="large"), deployment("small"), deployment("x/y/z", name="other")]
    strategy = litellm_router(policy, listed)
    assert strategy.get_available_deployment("auto", ask("write a poem")) is listed[0]
    assert strategy.get_available_deployment("auto", ask("add 1 and 2")) is listed[1]
    assert strategy.get_available_deployment("other", ask("add 1 and 2")) is listed[2]
    named = litellm_router(policy, [deployment("a/b"), deployment("c/d")], arms={"small": "a/b", "large": "c/d"})
    assert named.get_available_deployment("auto", ask("add 1 and 2"))["litellm_params"]["model"] == "a/b"


def test_deployments_of_one_arm_take_turns(policy: Any) -> None:
    listed = [deployment("openai/small"), deployment("vllm/small"), deployment("vllm/large")]
    strategy = litellm_router(policy, listed)
    found = [strategy.get_available_deployment("auto", ask("add 1 and 2")) for _ in range(4)]
    assert [listed.index(one) for one in found] == [0, 1, 0, 1]


def test_a_group_without_the_arm_takes_the_first_fallback(policy: Any) -> None:
    listed = [deployment("openai/small"), deployment("vllm/large", name="strong")]
    strategy = litellm_router(policy, listed)
    assert strategy.get_available_deployment("strong", ask("add 1 and 2")) is listed[1]


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        (ask("hello"), "hello"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "a"),
        (ask([{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "x"}}]), "see"),
        ([{"role": "assistant", "content": "b"}], ""),
        (ask(None), ""),
    ],
)
def test_the_query_is_the_last_text_of_the_user(messages: Any, text: str) -> None:
    assert last_user_text(messages) == text


def test_a_request_without_any_text_is_routed(policy: Any) -> None:
    strategy = litellm_router(policy, [deployment("small"), deployment("large")])
    assert strategy.get_available_deployment("auto")["model_name"] == "auto"


def test_what_does_not_fit_is_named(policy: Any) -> None:
    with pytest.raises(RouterInputError, match=r"1 of 2 arms have no deployment, the first is 'large'; .*\['small'\]"):
        litellm_router(policy, [deployment("small")])
    with pytest.raises(RouterInputError, match=r"arms= names 'huge', which the policy does not have"):
        litellm_router(policy, [deployment("small")], arms={"huge": "x"})
    with pytest.raises(RouterInputError, match=r"deployment 1 of 2 must have model_name and litellm_params.model"):
        litellm_router(policy, [deployment("small"), {"model_name": "auto"}])
    for wrong in (None, 3, "small", deployment("small")):
        with pytest.raises(
            RouterInputError, match=r"model_list must be a litellm.Router or a list of deployments .*, got"
        ):
            litellm_router(policy, wrong)
    for one in (None, {"model_name": "auto", "litellm_params": None}):
        with pytest.raises(RouterInputError, match=r"deployment 0 of 1 must have model_name and litellm_params.model"):
            litellm_router(policy, [one])
    with pytest.raises(RouterInputError, match="policy must be a fitted router or pipeline, got QualityRouter"):
        litellm_router(QualityRouter(), [deployment("small")])
    strategy = litellm_router(policy, [deployment("small"), deployment("large")])
    with pytest.raises(RouterInputError, match=r"no deployment has the model_name 'gpt'; there are \['auto'\]"):
        strategy.get_available_deployment("gpt", ask("a"))


def test_a_router_of_litellm_is_read_by_either_interface(policy: Any) -> None:
    listed = [deployment("small"), deployment("large")]

    class Old:
        model_list = listed

    class Registry:
        def all(self) -> list[Any]:
            return listed

    class Recent:
        def registry(self) -> Registry:
            return Registry()

    for router in (Old(), Recent()):
        assert litellm_router(policy, router).get_available_deployment("auto", ask("add 1 and 2")) is listed[0]


def test_the_methods_have_the_parameters_of_the_hook() -> None:
    for name in ("get_available_deployment", "async_get_available_deployment"):
        assert list(inspect.signature(getattr(DeferRoutingStrategy, name)).parameters) == HOOK


def test_litellm_itself_takes_the_strategy(policy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    litellm = pytest.importorskip("litellm")
    base = pytest.importorskip("litellm.types.router").CustomRoutingStrategyBase
    assert list(inspect.signature(base.get_available_deployment).parameters) == HOOK
    listed = [
        {"model_name": "auto", "litellm_params": {"model": f"openai/{arm}", "api_key": "none", "mock_response": arm}}
        for arm in ("small", "large")
    ]
    router = litellm.Router(model_list=listed)
    strategy = litellm_router(policy, router)
    getattr(router, "register_plugin", router.set_custom_routing_strategy)(strategy)
    answer = router.completion("auto", messages=ask("add 1 and 2"))
    assert answer.choices[0].message.content == "small"
