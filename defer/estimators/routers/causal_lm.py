"""A language model as router: it reads the prompt and scores, from 1 to 5, how well another arm would answer it.

Source: RouteLLM (Ong et al., ICLR 2025, arXiv 2406.18665), causal LLM classifier.  By default the language model is a tiny one
over bytes that is trained on the log; any local checkpoint takes its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defer.estimators.deferral.parameter_checks import check_counts, seed_of
from defer.estimators.outcomes_input import Outcomes
from defer.estimators.queries import text_groups
from defer.estimators.routers.score_prompts import ByteTokenizer, PromptShape, score_labels, score_network
from defer.estimators.routers.text_network import (
    checkpoint_hash,
    freeze_layers,
    load_checkpoint,
    text_libraries,
    trained_arrays,
)
from defer.estimators.routers.text_router import TextRouter
from defer.estimators.routers.text_training import network_outputs
from defer.exceptions import RouterInputError

__all__ = ["CausalLMRouter"]

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

_SHORT = "{query}\nScore of {arm}: "
_INSTRUCTION = (
    "Rate from 1 to 5 how well the model would answer the question.\nQuestion: {query}\nModel: {arm}\nScore: "
)
# Queries whose prompts exist at a time.
_BLOCK = 1024


class CausalLMRouter(TextRouter):
    """A causal language model that is fine-tuned to write the score, 1 to 5, of an arm's answer; takes texts.

    Parameters
    ----------
    model : str, optional
        Folder of a checkpoint that transformers loads as `AutoModelForCausalLM`, with its tokenizer.  None makes a
        small GPT-2 over bytes and trains it on the log from scratch.
    strong : name of an arm, optional
        That is called where no other arm's answer is good; by default the one of highest mean quality.
    good : int, default=4
        Least score of an answer that will do, 2 to 5: P(strong) = 1 - P(score >= good).
    template : str, optional
        With "{query}" and "{arm}"; by default a short one for the model over bytes and an instruction for a checkpoint.
    score_tokens : sequence of 5 str, default=("1", "2", "3", "4", "5")
        Texts whose last tokens stand for the scores.
    width, layers, heads : int, default=64, 2, 4
        Of the model over bytes.
    freeze : int, default=0
        Embeddings and so many layers of a checkpoint, from the first, stay as they are.
    epochs : int, default=5
        0 takes a checkpoint as it is.
    learning_rate : float, optional
        The most that the schedule reaches; by default 2e-3 for the model over bytes and 2e-5 for a checkpoint.
    batch_size : int, default=16
    max_length : int, default=256
        Tokens of a prompt; a query that is too long loses its end.
    max_norm : float, default=1.0
        Longer gradients are shortened to this length.
    weight_decay : float, default=0.01
    validation_fraction : float, default=0.1
        Queries held out, equal texts together; the epoch of least loss on them is kept, and their scores set the scale of
        quality.  0 takes the training rows.
    cost_weight : float, default=0.0
        Quality given up per US dollar.
    random_state : int, Generator, RandomState instance or None
    device : str, default="cpu"
        Where torch trains and predicts.

    Attributes
    ----------
    arms_ : array of shape (m,)
    strong_ : name of the arm that others are measured against
    weights_ : dict of str to array
        Parameters that were trained.
    model_hash_ : str
        SHA-256 of the model folder; "" for the model over bytes.
    validation_losses_ : list of float
        After every epoch.
    best_epoch_ : int
    quality_scale_ : QualityScale
        Brings scores to the unit of quality.

    Raises
    ------
    MissingExtraError
        If torch or transformers is not installed.
    RouterInputError
        If queries are no texts, the folder cannot be loaded, or an option is out of its range.

    Notes
    -----
    *Labels.*  The range of all observed qualities is cut into scores of equal distance: 1 is the worst, 5 the best, and a
    quality is rounded to the nearest, halves up.  Of 0 and 1 they are 1 and 5; a tie of two models is 3.  The loss is the
    cross-entropy of the five score tokens after the prompt.

    *Several arms.*  Every arm but the strong one has a prompt of its own, with its name in it.  Scores are P(score >= good)
    for them and 1/2 for the strong arm, so that the highest is the source's choice at the threshold 1/2; `predict_strong`
    gives P(strong).  Both rules are ours, as are the prompts.

    `defer.save` keeps what was trained as arrays, and a checkpoint by its hash, as for `EncoderRouter`.

    References
    ----------
    Ong et al. 2025, RouteLLM, arXiv 2406.18665 (causal LLM classifier).

    Examples
    --------
    >>> CausalLMRouter(epochs=8, good=3)
    CausalLMRouter(epochs=8, good=3)
    """

    validation_losses_: list[float]
    best_epoch_: int

    def __init__(
        self,
        model: str | None = None,
        *,
        strong: Any = None,
        good: int = 4,
        template: str | None = None,
        score_tokens: Sequence[str] = ("1", "2", "3", "4", "5"),
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
        freeze: int = 0,
        epochs: int = 5,
        learning_rate: float | None = None,
        batch_size: int = 16,
        max_length: int = 256,
        max_norm: float = 1.0,
        weight_decay: float = 0.01,
        validation_fraction: float = 0.1,
        cost_weight: float = 0.0,
        random_state: Any = None,
        device: str = "cpu",
    ) -> None:
        self.model = model
        self.strong = strong
        self.good = good
        self.template = template
        self.score_tokens = score_tokens
        self.width = width
        self.layers = layers
        self.heads = heads
        self.freeze = freeze
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_length = max_length
        self.max_norm = max_norm
        self.weight_decay = weight_decay
        self.validation_fraction = validation_fraction
        self.cost_weight = cost_weight
        self.random_state = random_state
        self.device = device

    def _learn(self, texts: list[str], outcomes: Outcomes) -> Rows:
        self._check_parameters()
        training = self._training()
        self._find_strong(outcomes)
        others = self._others()
        if len(others) > 1 and "{arm}" not in self._template():
            raise RouterInputError(
                f"CausalLMRouter: template must hold {{arm}} where {len(others)} arms are scored, got {self._template()!r}"
            )
        weight = np.ones(len(texts)) if outcomes.weight is None else outcomes.weight
        seed = seed_of(self.random_state)
        self._network = self._build(seed).to(self.device)
        self.model_hash_ = "" if self.model is None else checkpoint_hash(self.model)
        self.weights_, self.validation_losses_, self.best_epoch_ = {}, [], 0
        if not len(others):
            return np.arange(len(texts))
        label = score_labels(outcomes.quality)[:, others].ravel()
        line = np.repeat(np.arange(len(texts)), len(others))
        rows = np.flatnonzero((label >= 0) & (weight[line] > 0))
        if not len(rows):
            raise RouterInputError(
                f"CausalLMRouter: no query of positive weight has an outcome of an arm other than the strong one, {self.strong_!r}"
            )
        table = self._shape().tokens(texts, self.arms_[others].tolist())
        twins = text_groups(texts)
        assert twins is not None
        found = training.run(self._network, table, _score_loss(label), weight[line], rows, seed, twins[line])
        self.weights_ = trained_arrays(self._network)
        self.validation_losses_, self.best_epoch_ = found.losses, found.best_epoch
        return np.unique(line[found.held])

    def _rate(self) -> Any:
        if self.learning_rate is not None:
            return self.learning_rate
        return 2e-3 if self.model is None else 2e-5

    def _check_parameters(self) -> None:
        owner = "CausalLMRouter"
        check_counts(owner, width=self.width, layers=self.layers, heads=self.heads)
        check_counts(owner, least=0, freeze=self.freeze)
        check_counts(owner, least=8, max_length=self.max_length)
        if isinstance(self.good, bool) or not isinstance(self.good, Integral) or not 2 <= self.good <= 5:
            raise RouterInputError(f"{owner}: good must be an integer from 2 to 5, got {self.good!r}")
        if self.width % self.heads:
            raise RouterInputError(
                f"{owner}: width must be a multiple of heads, got width={self.width} and heads={self.heads}"
            )
        tokens = self.score_tokens
        if isinstance(tokens, str) or len(tokens) != 5 or not all(isinstance(token, str) for token in tokens):
            raise RouterInputError(f"{owner}: score_tokens must be five texts, got {tokens!r}")
        if self.model is None and self.freeze:
            raise RouterInputError(
                f"{owner}: freeze={self.freeze} needs model=: there is nothing to keep of a fresh model"
            )

    def _build(self, seed: int = 0) -> Any:
        if self.model is not None:
            base, tokenizer = load_checkpoint("CausalLMRouter", self.model, "AutoModelForCausalLM")
            network = score_network(base, tokenizer, self.score_tokens)
            freeze_layers("CausalLMRouter", base, int(self.freeze))
            return network
        torch, transformers = text_libraries()
        marks = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": ByteTokenizer.pad_token_id}
        rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        config = transformers.GPT2Config(
            vocab_size=ByteTokenizer.size, n_positions=int(self.max_length), n_embd=int(self.width),
            n_layer=int(self.layers), n_head=int(self.heads), **rates, **marks,
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            base = transformers.GPT2LMHeadModel(config)
        return score_network(base, ByteTokenizer(), self.score_tokens)

    def _template(self) -> str:
        if self.template is not None:
            return self.template
        return _SHORT if self.model is None else _INSTRUCTION

    def _shape(self) -> PromptShape:
        network = self._trained_network()
        most = getattr(network.base.config, "max_position_embeddings", None) or self.max_length
        return PromptShape(self._template(), network.tokenizer, min(int(self.max_length), int(most)))

    def _text_scores(self, texts: list[str]) -> Floats:
        others = self._others()
        if not len(others):
            return np.full((len(texts), 1), 0.5)
        shape, network, names = self._shape(), self._trained_network(), self.arms_[others].tolist()
        parts = []
        for low in range(0, len(texts), _BLOCK):
            table = shape.tokens(texts[low : low + _BLOCK], names)
            parts.append(network_outputs(network, table, batch_size=int(self.batch_size), device=self.device))
        logits = np.concatenate(parts)
        e = np.exp(logits - logits.max(axis=1, keepdims=True))
        good = e[:, int(self.good) - 1 :].sum(axis=1) / e.sum(axis=1)
        return self._against_strong(good.reshape(len(texts), -1))


def _score_loss(label: NDArray[np.intp]) -> Any:
    torch, _ = text_libraries()

    def loss(outputs: Any, rows: Rows) -> Any:
        wanted = torch.as_tensor(label[rows], device=outputs.device)
        return torch.nn.functional.cross_entropy(outputs, wanted, reduction="none")

    return loss
