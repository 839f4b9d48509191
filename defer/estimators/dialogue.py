"""Routing the turns of a dialogue: the state that earlier turns left, which experts extend and errors stay in.

Source: OrchestraLLM (Lee, Cheng, Ostendorf, NAACL 2024, arXiv 2311.09758).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sklearn.exceptions import NotFittedError

from defer.exceptions import RouterInputError

__all__ = ["DELETED", "DialogueRouter", "RoutedTurn", "serialize_turn", "slot_f1", "update_state"]

State = Mapping[str, Any]
Expert = Callable[[str, State], State]

DELETED = "[DELETE]"
"""What a turn says of a slot that is taken back."""


def serialize_turn(state: State, system: str, user: str) -> str:
    """An instance of a dialogue as one text: the state before the turn, the last system turn, the user's turn.

    Parameters
    ----------
    state : mapping from slot to value
        Written in the order of the slots' names, so that equal states give equal texts.
    system, user : str

    Returns
    -------
    str

    Examples
    --------
    >>> serialize_turn({"food": "thai", "area": "north"}, "Any price?", "Cheap, please.")
    '[state] area = north; food = thai [system] Any price? [user] Cheap, please.'
    """
    slots = "; ".join(f"{slot} = {state[slot]}" for slot in sorted(state, key=str))
    return f"[state] {slots} [system] {system} [user] {user}"


def update_state(state: State, turn_belief: State, *, deleted: Any = DELETED) -> dict[str, Any]:
    """The state after a turn: what the turn says overwrites and extends it, and a deletion takes its slot out.

    Parameters
    ----------
    state : mapping from slot to value
        Before the turn; stays as it is.
    turn_belief : mapping from slot to value
        What the turn says.
    deleted : object, default="[DELETE]"
        Value that takes a slot out; of a slot that is not there, nothing.

    Returns
    -------
    dict

    Examples
    --------
    >>> update_state({"area": "north", "food": "thai"}, {"area": "[DELETE]", "food": "greek", "stars": "4"})
    {'food': 'greek', 'stars': '4'}
    """
    after = {**state, **turn_belief}
    return {slot: value for slot, value in after.items() if slot not in turn_belief or value != deleted}


def slot_f1(a: State, b: State) -> float:
    """F1 of two states over pairs of slot and value, ``2 |A & B| / (|A| + |B|)``; 1 where both are empty.

    Parameters
    ----------
    a, b : mappings from slot to value

    Returns
    -------
    float
        In [0, 1].

    Examples
    --------
    >>> slot_f1({"area": "north", "food": "thai"}, {"area": "north"}), slot_f1({}, {})
    (0.6666666666666666, 1.0)
    """
    total = len(a) + len(b)
    return 2.0 * sum(slot in b and b[slot] == value for slot, value in a.items()) / total if total else 1.0


@dataclass(frozen=True)
class RoutedTurn:
    """What became of one turn.

    Attributes
    ----------
    text : str
        What the router saw.
    arm : str
        Expert that was asked.
    belief : dict
        What it said of the turn.
    state : dict
        After the turn.
    """

    text: str
    arm: Any
    belief: dict[str, Any]
    state: dict[str, Any]


class DialogueRouter:
    """Route every turn of a dialogue, and keep the state that the chosen experts' answers leave.

    A wrong answer stays in the state: later turns are routed, and answered, with it.

    Parameters
    ----------
    router : fitted router of texts
        Such as ``make_pipeline(SentenceEmbedder(), PoolVoteRouter())`` fitted on texts of `serialize_turn`.
    experts : mapping from arm to callable, optional
        ``expert(text, state)`` gives what the turn says, slot to value.  None where answers are replayed from a log.
    deleted : object, default="[DELETE]"
        As for `update_state`.

    Attributes
    ----------
    state : dict
        After the last turn.

    Raises
    ------
    RouterInputError
        If `router` is no router, `experts` is no mapping of callables, or an arm of the router has no expert.
    NotFittedError
        If the router is not fitted.

    Examples
    --------
    >>> from sklearn.feature_extraction.text import TfidfVectorizer
    >>> from defer.estimators import KNNRouter, make_pipeline
    >>> texts = [serialize_turn({}, "", words) for words in ("thai food", "greek food", "two nights", "one night")]
    >>> router = make_pipeline(TfidfVectorizer(), KNNRouter(1)).fit(texts, ["small", "small", "large", "large"])
    >>> experts = {"small": lambda text, state: {"food": "thai"}, "large": lambda text, state: {"nights": "2"}}
    >>> dialogue = DialogueRouter(router, experts)
    >>> [turn.arm for turn in dialogue.run([("", "some thai food"), ("Anything else?", "two nights")])]
    ['small', 'large']
    >>> dialogue.state
    {'food': 'thai', 'nights': '2'}
    """

    def __init__(self, router: Any, experts: Mapping[Any, Expert] | None = None, *, deleted: Any = DELETED) -> None:
        _check_router(router)
        _check_experts(experts)
        lacking = [] if experts is None else [arm for arm in router.arms_.tolist() if arm not in experts]
        if lacking:
            raise RouterInputError(
                f"DialogueRouter: {len(lacking)} of the router's arms have no expert, the first is {lacking[0]!r}; experts are "
                f"given for {list(experts or ())}"
            )
        self.router, self.experts, self.deleted = router, experts, deleted
        self.state: dict[str, Any] = {}

    def reset(self, state: State | None = None) -> None:
        """Begin another dialogue, with an empty state or the one given.

        Parameters
        ----------
        state : mapping from slot to value, optional

        Raises
        ------
        RouterInputError
            If it is no mapping.
        """
        _check_mapping(state, "state")
        self.state = dict(state or {})

    def take_turn(self, system: str, user: str, *, logged: Mapping[Any, State] | None = None) -> RoutedTurn:
        """Route one turn, ask the expert, and update the state.

        Parameters
        ----------
        system, user : str
            The last system turn, and the user's.
        logged : mapping from arm to mapping, optional
            What every expert said of this turn when it was logged; replayed in place of asking.  The log does not know what
            they would have said in another state.

        Returns
        -------
        RoutedTurn

        Raises
        ------
        RouterInputError
            If a turn is no text, there are neither experts nor logged answers, the chosen arm has none, or an answer is no
            mapping.  The state is then what it was.
        """
        for name, given in (("system", system), ("user", user)):
            if not isinstance(given, str):
                raise RouterInputError(
                    f"DialogueRouter: {name} must be what was said, a text, got {type(given).__name__}; '' where nothing was"
                )
        _check_mapping(logged, "logged")
        text = serialize_turn(self.state, system, user)
        arm = self.router.predict([text])[0]
        arm = arm.item() if hasattr(arm, "item") else arm
        belief = self._answer(arm, text, logged)
        self.state = update_state(self.state, belief, deleted=self.deleted)
        return RoutedTurn(text, arm, dict(belief), dict(self.state))

    def run(
        self,
        turns: Sequence[tuple[str, str]],
        *,
        logged: Sequence[Mapping[Any, State]] | None = None,
        states: Sequence[State] | None = None,
    ) -> list[RoutedTurn]:
        """Route a whole dialogue from an empty state.

        Parameters
        ----------
        turns : sequence of (system, user)
        logged : sequence of mappings from arm to mapping, optional
            One per turn, as for `take_turn`.
        states : sequence of mappings, optional
            Gold state before every turn.  With it no error is carried on.

        Returns
        -------
        list of RoutedTurn

        Raises
        ------
        RouterInputError
            As for `take_turn`, and if there are not as many logged answers, or states, as turns, or a turn is no pair.
        """
        _check_turns(turns)
        for name, given in (("logged", logged), ("states", states)):
            if given is not None and (isinstance(given, (str, Mapping)) or not hasattr(given, "__len__")):
                raise RouterInputError(
                    f"DialogueRouter: {name} needs a list with one entry per turn, got one {type(given).__name__}"
                )
            if given is not None and len(given) != len(turns):
                raise RouterInputError(
                    f"DialogueRouter: {name} needs one entry per turn, got {len(given)} for {len(turns)} turns"
                )
        self.reset()
        routed = []
        for number, (system, user) in enumerate(turns):
            if states is not None:
                self.reset(states[number])
            routed.append(self.take_turn(system, user, logged=None if logged is None else logged[number]))
        return routed

    def _answer(self, arm: Any, text: str, logged: Mapping[Any, State] | None) -> State:
        if logged is not None:
            if arm not in logged:
                raise RouterInputError(
                    f"DialogueRouter: the turn was routed to {arm!r}, of which the log has no answer; it has those of {list(logged)}"
                )
            belief = logged[arm]
        elif self.experts is not None:
            belief = self.experts[arm](text, dict(self.state))
        else:
            raise RouterInputError(
                "DialogueRouter: there is nobody to ask: give experts=, or logged= answers of the turn"
            )
        if not isinstance(belief, Mapping):
            raise RouterInputError(
                f"DialogueRouter: the answer of {arm!r} must be a mapping from slot to value, got {type(belief).__name__}"
            )
        return belief


def _check_router(router: Any) -> None:
    if isinstance(router, type):
        raise RouterInputError(
            f"DialogueRouter: router must be a fitted router, got the class {router.__name__}; fit {router.__name__}() first"
        )
    if not hasattr(router, "predict"):
        raise RouterInputError(f"DialogueRouter: router must be a fitted router of texts, got {router!r}")
    try:
        is_fitted = hasattr(router, "arms_")
    except NotFittedError:
        is_fitted = False
    if not is_fitted:
        raise NotFittedError(
            f"DialogueRouter: this {type(router).__name__} is not fitted; fit it on texts of serialize_turn"
        )
    width = getattr(router, "n_features_in_", None)
    if width is not None:
        raise RouterInputError(
            f"DialogueRouter: router must be a fitted router of texts, and this {type(router).__name__} was fitted on rows of "
            f"{width} numbers"
        )


def _check_experts(experts: Any) -> None:
    _check_mapping(experts, "experts")
    wrong = [arm for arm, expert in (experts or {}).items() if not callable(expert)]
    if wrong:
        raise RouterInputError(
            f"DialogueRouter: experts must be callables, called as expert(text, state), {len(wrong)} of {len(experts)} are none, "
            f"the first is that of {wrong[0]!r}, a {type(experts[wrong[0]]).__name__}"
        )


def _check_mapping(given: Any, name: str) -> None:
    if given is not None and not isinstance(given, Mapping):
        raise RouterInputError(f"DialogueRouter: {name} must be a mapping, got {type(given).__name__}")


def _check_turns(turns: Any) -> None:
    if isinstance(turns, (str, Mapping)) or not hasattr(turns, "__len__"):
        raise RouterInputError(
            f"DialogueRouter: turns must be a list of pairs (system, user), got one {type(turns).__name__}"
        )
    wrong = [
        row for row, turn in enumerate(turns) if isinstance(turn, str) or not hasattr(turn, "__len__") or len(turn) != 2
    ]
    if wrong:
        raise RouterInputError(
            f"DialogueRouter: turns must be pairs (system, user), {len(wrong)} of {len(turns)} are none, the first is turn "
            f"{wrong[0]}, a {type(turns[wrong[0]]).__name__}"
        )
