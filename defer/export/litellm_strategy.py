"""A fitted policy as LiteLLM's custom routing strategy: the policy picks the deployment of every request.

LiteLLM calls two methods and asks for no base class, so it is not imported here.  Checked against LiteLLM 1.110.2
(`litellm.types.router.CustomRoutingStrategyBase`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

from defer.exceptions import RouterInputError

__all__ = ["DeferRoutingStrategy", "last_user_text", "litellm_router"]

Messages = Sequence[Mapping[str, Any]]


def last_user_text(messages: Messages) -> str:
    """Text of the last message of the user: what a policy that was fitted on prompts takes.

    Parameters
    ----------
    messages : sequence of mappings
        In the form of OpenAI's API; parts that are no text, such as images, are left out.

    Examples
    --------
    >>> last_user_text([{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}])
    'hello'
    """
    asked = [message for message in messages if message.get("role") == "user"]
    content = asked[-1].get("content") if asked else None
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, (list, tuple)) else []
    return "\n".join(str(part["text"]) for part in parts if isinstance(part, Mapping) and "text" in part)


class DeferRoutingStrategy:
    """What `litellm.Router` asks for a deployment; made by `litellm_router`.

    Parameters
    ----------
    policy : fitted router or pipeline
    deployments : mapping of arm to list of dicts
        Elements of LiteLLM's list of models.
    others : list of dicts
        Deployments of no arm.
    query : callable
        Makes the policy's query of a list of messages.

    Examples
    --------
    >>> one = {"model_name": "gpt", "litellm_params": {"model": "openai/gpt"}}
    >>> DeferRoutingStrategy(None, {}, [one], query=last_user_text).get_available_deployment("gpt") is one
    True
    """

    def __init__(
        self,
        policy: Any,
        deployments: Mapping[Any, list[Any]],
        others: list[Any],
        *,
        query: Callable[[Messages], Any],
    ) -> None:
        self.policy, self.deployments, self.others, self.query = policy, deployments, others, query
        self._turn = count()

    def get_available_deployment(
        self,
        model: str,
        messages: Messages | None = None,
        input: str | list[Any] | None = None,
        specific_deployment: bool | None = False,
        request_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Deployment for a request.

        Parameters
        ----------
        model : str
            Group of deployments, by their ``model_name``.
        messages : list of dicts, optional
        input : str or list, optional
            Of a request without messages.
        specific_deployment, request_kwargs
            Not read.

        Returns
        -------
        dict
            A deployment of the group: of the policy's arm, or of its first fallback that the group has; several of one arm
            take turns.

        Raises
        ------
        RouterInputError
            If no deployment has that name.
        """
        group = {arm: [one for one in found if one["model_name"] == model] for arm, found in self.deployments.items()}
        named = {arm: found for arm, found in group.items() if found}
        if not named:
            rest = [one for one in self.others if one["model_name"] == model]
            if not rest:
                names = sorted(
                    {one["model_name"] for found in (*self.deployments.values(), self.others) for one in found}
                )
                raise RouterInputError(f"litellm_router: no deployment has the model_name {model!r}; there are {names}")
            return rest[next(self._turn) % len(rest)]
        if len(named) == 1:
            (found,) = named.values()
        else:
            found = next(named[arm] for arm in self._by_preference(messages, input) if arm in named)
        return found[next(self._turn) % len(found)]

    async def async_get_available_deployment(
        self,
        model: str,
        messages: Messages | None = None,
        input: str | list[Any] | None = None,
        specific_deployment: bool | None = False,
        request_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """The same, in a thread of its own: a prediction must not hold up the event loop.

        Parameters
        ----------
        model, messages, input, specific_deployment, request_kwargs
            As for `get_available_deployment`.
        """
        return await asyncio.to_thread(self.get_available_deployment, model, messages, input)

    def _by_preference(self, messages: Messages | None, input: str | list[Any] | None) -> list[Any]:
        if not messages:
            texts = input if isinstance(input, list) else [input or ""]
            messages = [{"role": "user", "content": "\n".join(text for text in texts if isinstance(text, str))}]
        routing = self.policy.route([self.query(messages)])
        names = routing.arms.tolist()
        return [names[index] for index in (routing.arm[0], *routing.fallbacks[0])]


def litellm_router(
    policy: Any,
    model_list: Any,
    *,
    arms: Mapping[Any, str] | None = None,
    query: Callable[[Messages], Any] = last_user_text,
) -> DeferRoutingStrategy:
    """Routing strategy for ``litellm.Router``.

    Parameters
    ----------
    policy : fitted router or pipeline
    model_list : litellm.Router, or list of dicts
        Deployments.  Of a list LiteLLM must be given the same dicts, with ``model_info.id``; of a `Router` they are read.
    arms : mapping of arm to str, optional
        ``model_info.id`` or ``litellm_params.model`` of its deployments.  Default the name of the arm itself, which may also
        stand behind a provider, as in ``openai/NAME``.
    query : callable, default=last_user_text
        Makes the policy's query, a text or a row of numbers, of a list of messages.

    Returns
    -------
    DeferRoutingStrategy
        For ``router.set_custom_routing_strategy(...)``, or ``router.register_plugin(...)`` from LiteLLM 1.110 on.  All
        deployments between which the policy shall choose carry one ``model_name``.

    Raises
    ------
    RouterInputError
        If the policy is not fitted, there is no list of deployments, an arm has no deployment, `arms` names an arm that the
        policy does not have, or a deployment lacks its names.

    Notes
    -----
    A custom strategy replaces LiteLLM's own choice, and with it cooldowns and load balancing between deployments.

    Examples
    --------
    >>> from defer.estimators import QualityRouter
    >>> from defer.portfolios.arm_matrix import ArmMatrix
    >>> policy = QualityRouter().fit([[3.0], [90.0]], ArmMatrix([[1, 0], [0, 1]], arms=["small", "large"]))
    >>> deployments = [{"model_name": "auto", "litellm_params": {"model": f"openai/{arm}"}} for arm in ("small", "large")]
    >>> strategy = litellm_router(policy, deployments, query=lambda messages: [len(last_user_text(messages))])
    >>> strategy.get_available_deployment("auto", [{"role": "user", "content": "hi!"}])["litellm_params"]["model"]
    'openai/small'
    """
    found = _deployments(model_list)
    if isinstance(policy, type) or not hasattr(policy, "arms_"):
        got = f"the class {policy.__name__}" if isinstance(policy, type) else type(policy).__name__
        raise RouterInputError(f"litellm_router: policy must be a fitted router or pipeline, got {got}")
    names = policy.arms_.tolist()
    unknown = [arm for arm in arms or {} if arm not in names]
    if unknown:
        raise RouterInputError(
            f"litellm_router: arms= names {unknown[0]!r}, which the policy does not have; it has {names}"
        )
    wanted = {arm: str((arms or {}).get(arm, arm)) for arm in names}
    by_arm = {arm: [one for one in found if _is(one, name)] for arm, name in wanted.items()}
    missing = [arm for arm, its in by_arm.items() if not its]
    if missing:
        raise RouterInputError(
            f"litellm_router: {len(missing)} of {len(names)} arms have no deployment, the first is {missing[0]!r}; the deployments "
            f"are of the models {[one['litellm_params']['model'] for one in found][:20]}.  Name it in arms="
        )
    taken = [id(one) for its in by_arm.values() for one in its]
    return DeferRoutingStrategy(policy, by_arm, [one for one in found if id(one) not in taken], query=query)


def _deployments(model_list: Any) -> list[Any]:
    if hasattr(model_list, "registry"):
        model_list = model_list.registry().all()
    elif hasattr(model_list, "model_list"):
        model_list = model_list.model_list
    if isinstance(model_list, (str, Mapping)) or not hasattr(model_list, "__iter__"):
        raise RouterInputError(
            "litellm_router: model_list must be a litellm.Router or a list of deployments (dicts with model_name and "
            f"litellm_params), got {model_list!r}"
        )
    found = list(model_list)
    for index, one in enumerate(found):
        if not isinstance(one, Mapping) or "model_name" not in one or not _has_model(one):
            raise RouterInputError(
                f"litellm_router: deployment {index} of {len(found)} must have model_name and litellm_params.model, got {one!r}"
            )
    return found


def _has_model(deployment: Mapping[str, Any]) -> bool:
    params = deployment.get("litellm_params")
    return isinstance(params, Mapping) and "model" in params


def _is(deployment: Mapping[str, Any], name: str) -> bool:
    model = deployment["litellm_params"]["model"]
    own = (deployment.get("model_info") or {}).get("id")
    return name in (own, model) or model.partition("/")[2] == name
