"""States of dialogues, and the router that carries them from turn to turn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer

from defer.estimators import KNNRouter, make_pipeline
from defer.estimators.dialogue import DELETED, DialogueRouter, serialize_turn, slot_f1, update_state
from defer.exceptions import RouterInputError


class ByWord:
    """A router that sends texts with the word "hard" to the large arm, wherever the word stands."""

    arms_ = np.array(["small", "large"])

    def predict(self, texts: list[str]) -> np.ndarray:
        return self.arms_[[int("hard" in text) for text in texts]]


def small(text: str, state: Mapping[str, Any]) -> dict[str, Any]:
    return {"mood": "hard"} if "mood" in text and not state else {"easy": "yes"}


def large(text: str, state: Mapping[str, Any]) -> dict[str, Any]:
    return {"mood": DELETED, "seen": ",".join(state)}


def test_a_state_is_overwritten_extended_and_shortened() -> None:
    before = {"area": "north", "food": "thai"}
    after = update_state(before, {"food": "greek", "area": DELETED, "stars": "4", "price": DELETED})
    assert after == {"food": "greek", "stars": "4"}
    assert before == {"area": "north", "food": "thai"}
    assert update_state({"area": "north"}, {"area": None}, deleted=None) == {}
    # Only what a turn says can delete.
    assert update_state({"area": DELETED}, {}) == {"area": DELETED}


def test_f1_of_slots_and_values() -> None:
    a, b = {"area": "north", "food": "thai", "stars": "4"}, {"area": "north", "food": "greek"}
    assert slot_f1(a, b) == slot_f1(b, a) == pytest.approx(2 * 1 / 5)
    assert slot_f1({}, {}) == slot_f1(a, a) == 1.0
    assert slot_f1(a, {}) == 0.0


def test_equal_states_give_equal_texts() -> None:
    one, other = serialize_turn({"a": 1, "b": 2}, "s", "u"), serialize_turn({"b": 2, "a": 1}, "s", "u")
    assert one == other == "[state] a = 1; b = 2 [system] s [user] u"
    assert serialize_turn({}, "", "") == "[state]  [system]  [user] "


def test_the_state_is_carried_on_and_seen_by_router_and_experts() -> None:
    dialogue = DialogueRouter(ByWord(), {"small": small, "large": large})
    turns = dialogue.run([("", "what a mood"), ("Go on?", "easy"), ("Go on?", "easy")])
    # The answer of the first turn sends the second to the large arm, which takes the slot out again.
    assert [turn.arm for turn in turns] == ["small", "large", "small"]
    assert [turn.state for turn in turns] == [{"mood": "hard"}, {"seen": "mood"}, {"seen": "mood", "easy": "yes"}]
    assert turns[1].text == "[state] mood = hard [system] Go on? [user] easy"
    assert turns[1].belief == {"mood": DELETED, "seen": "mood"}
    assert dialogue.state == turns[-1].state
    dialogue.reset()
    assert dialogue.state == {}
    dialogue.reset({"area": "north"})
    assert dialogue.take_turn("", "easy").state == {"area": "north", "easy": "yes"}


def test_logged_answers_are_replayed_with_or_without_their_errors() -> None:
    logged = [
        {"small": {"mood": "hard"}, "large": {"mood": "fine"}},
        {"small": {"food": "thai"}, "large": {"food": "greek"}},
    ]
    turns = [("", "hello"), ("Food?", "thai")]
    carried = DialogueRouter(ByWord()).run(turns, logged=logged)
    assert [turn.arm for turn in carried] == ["small", "large"]
    assert carried[-1].state == {"mood": "hard", "food": "greek"}
    gold = DialogueRouter(ByWord()).run(turns, logged=logged, states=[{}, {"mood": "fine"}])
    assert [turn.arm for turn in gold] == ["small", "small"]
    assert gold[-1].state == {"mood": "fine", "food": "thai"}


def test_what_an_expert_gets_cannot_change_the_state() -> None:
    def meddles(text: str, state: Any) -> dict[str, Any]:
        state["area"] = "south"
        return {}

    dialogue = DialogueRouter(ByWord(), {"small": meddles, "large": meddles})
    dialogue.take_turn("", "hello")
    assert dialogue.state == {}


def test_an_arm_without_an_expert_is_named() -> None:
    with pytest.raises(
        RouterInputError, match=r"1 of the router's arms have no expert, the first is 'large'; experts are given"
    ):
        DialogueRouter(ByWord(), {"small": small})


@pytest.mark.parametrize(
    ("experts", "logged", "message"),
    [
        (None, None, "there is nobody to ask: give experts=, or logged= answers"),
        (None, {"large": {}}, r"routed to 'small', of which the log has no answer; it has those of \['large'\]"),
        (None, {"small": "north"}, "the answer of 'small' must be a mapping from slot to value, got str"),
        ({"small": lambda text, state: ["north"], "large": large}, None, "the answer of 'small' must be a mapping .*, got list"),
    ],
)  # fmt: skip
def test_answers_that_are_none_are_named(experts: Any, logged: Any, message: str) -> None:
    with pytest.raises(RouterInputError, match=message):
        DialogueRouter(ByWord(), experts).take_turn("", "hello", logged=logged)


@pytest.mark.parametrize("name", ["logged", "states"])
def test_one_entry_per_turn_is_needed(name: str) -> None:
    with pytest.raises(RouterInputError, match=f"{name} needs one entry per turn, got 1 for 2 turns"):
        DialogueRouter(ByWord(), {"small": small, "large": large}).run([("", "a"), ("", "b")], **{name: [{}]})


@pytest.mark.parametrize(
    ("router", "message"),
    [
        (KNNRouter, r"router must be a fitted router, got the class KNNRouter; fit KNNRouter\(\) first"),
        (None, "router must be a fitted router of texts, got None"),
        ("policy", "router must be a fitted router of texts, got 'policy'"),
        (
            KNNRouter(1).fit([[0.0, 1.0], [1.0, 0.0]], ["small", "large"]),
            "router must be a fitted router of texts, and this KNNRouter was fitted on rows of 2 numbers",
        ),
    ],
)
def test_what_is_no_router_is_said(router: Any, message: str) -> None:
    with pytest.raises(RouterInputError, match=f"DialogueRouter: {message}"):
        DialogueRouter(router)


@pytest.mark.parametrize("router", [KNNRouter(), make_pipeline(TfidfVectorizer(), KNNRouter())])
def test_an_unfitted_router_routes_nothing(router: Any) -> None:
    with pytest.raises(
        NotFittedError, match=rf"DialogueRouter: this {type(router).__name__} is not fitted; fit it on texts"
    ):
        DialogueRouter(router)


@pytest.mark.parametrize(
    ("experts", "message"),
    [
        ([small, large], "experts must be a mapping, got list"),
        ({"small": small, "large": "model"}, r"1 of 2 are none, the first is that of 'large', a str"),
    ],
)
def test_experts_are_checked(experts: Any, message: str) -> None:
    with pytest.raises(RouterInputError, match=message):
        DialogueRouter(ByWord(), experts)


@pytest.mark.parametrize(
    ("system", "user", "options", "message"),
    [
        (None, "hello", {}, "system must be what was said, a text, got NoneType; '' where nothing was"),
        ("", 3, {}, "user must be what was said, a text, got int"),
        ("", ["hello"], {}, "user must be what was said, a text, got list"),
        ("", "hello", {"logged": [{}]}, "logged must be a mapping, got list"),
    ],
)
def test_a_turn_is_two_texts(system: Any, user: Any, options: dict[str, Any], message: str) -> None:
    dialogue = DialogueRouter(ByWord(), {"small": small, "large": large})
    dialogue.reset({"area": "north"})
    with pytest.raises(RouterInputError, match=f"DialogueRouter: {message}"):
        dialogue.take_turn(system, user, **options)
    assert dialogue.state == {"area": "north"}


@pytest.mark.parametrize(
    ("turns", "options", "message"),
    [
        ("hello", {}, r"turns must be a list of pairs \(system, user\), got one str"),
        (3, {}, "turns must be a list of pairs .*, got one int"),
        (["hi", ("", "a")], {}, "turns must be pairs .*, 1 of 2 are none, the first is turn 0, a str"),
        ([("", "a"), ("", "b", "c")], {}, "turns must be pairs .*, 1 of 2 are none, the first is turn 1, a tuple"),
        ([("", "a")], {"logged": {"small": {}}}, "logged needs a list with one entry per turn, got one dict"),
        ([("", "a")], {"states": "north"}, "states needs a list with one entry per turn, got one str"),
        ([("", "a")], {"states": ["north"]}, "state must be a mapping, got str"),
    ],
)
def test_a_dialogue_is_a_list_of_turns(turns: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RouterInputError, match=f"DialogueRouter: {message}"):
        DialogueRouter(ByWord(), {"small": small, "large": large}).run(turns, **options)


@pytest.mark.parametrize("user", ["", "x" * 100_000, "漢字 テスト", "a\x00b\x1b[31m", "\ud800"])
def test_any_text_is_a_turn(user: str) -> None:
    texts = [serialize_turn({}, "", words) for words in ("thai food", "greek food", "two nights", "one night")]
    router = make_pipeline(TfidfVectorizer(), KNNRouter(1)).fit(texts, ["small", "small", "large", "large"])
    turn = DialogueRouter(router, {"small": small, "large": large}).take_turn("", user)
    assert turn.text.endswith(user)
    assert turn.arm in ("small", "large")


def test_an_empty_dialogue_is_one() -> None:
    assert DialogueRouter(ByWord(), {"small": small, "large": large}).run([]) == []
