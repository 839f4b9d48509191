"""A transformer encoder as router: it reads the prompt and says whether the strong arm's answer will be the better one.

Source: RouteLLM (Ong et al., ICLR 2025, arXiv 2406.18665), BERT classifier; soft labels after Stripelis et al. 2024.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from defer.estimators.base import column_means
from defer.estimators.deferral.parameter_checks import check_choices, check_counts
from defer.estimators.embeddings import local_model
from defer.estimators.outcomes_input import Outcomes
from defer.estimators.queries import text_groups
from defer.estimators.routers.text_network import (
    Features,
    Tokens,
    checkpoint_hash,
    freeze_layers,
    load_checkpoint,
    pooled_states,
    text_libraries,
    text_tokens,
    trained_arrays,
    use_arrays,
)
from defer.estimators.routers.text_router import TextRouter
from defer.estimators.routers.text_training import network_outputs
from defer.exceptions import RouterInputError
from defer.losses.distillation import soft_labels

__all__ = ["EncoderRouter"]

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


class EncoderRouter(TextRouter):
    """A local transformer encoder with a head, fine-tuned on preferences or graded outcomes; takes texts.

    Parameters
    ----------
    model : str, optional
        Folder of a checkpoint that transformers loads as `AutoModel`, with its tokenizer.  None takes the sentence
        encoder that an installed package carries.
    labels : {"win3", "soft", "quality"}, default="win3"
        "win3": three classes per arm, whether the strong arm wins against it, ties or loses; ties count for the other
        arm, P(strong) = 1 - P(tie) - P(loss).  "soft": one distribution over arms, fitted to shares proportional to
        exp(kappa * quality) of what was observed.  "quality": the quality of every arm by least squares, which single
        outcomes teach too.
    strong : name of an arm, optional
        That others are measured against; by default the one of highest mean quality.
    kappa : float, default=10.0
        For soft labels.
    pooling : {"mean", "cls"}, default="mean"
        What stands for the text: the mean of its tokens' states, or the state of the first token, as in the source.
    freeze : int, default=0
        Embeddings and so many layers, from the first, stay as they are.  Where these are all, texts are encoded once and
        only the head is trained.
    epochs : int, default=3
    learning_rate, head_learning_rate : float, default=5e-5, 1e-3
        The most that the schedule reaches, of the encoder and of the head.
    batch_size : int, default=16
    max_length : int, default=256
        Tokens of a text that are read, from the first; fewer where the model has fewer places.
    max_norm : float, default=1.0
        Longer gradients are shortened to this length.
    weight_decay : float, default=0.01
    validation_fraction : float, default=0.1
        Rows held out; the epoch of least loss on them is kept, and their scores set the scale of quality.  0 takes the
        training rows.
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
        SHA-256 of the model folder.
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
        If queries are no texts, there is no model folder, or an option is out of its range.

    Notes
    -----
    The state is standardised before the linear head, which begins at zero; that is ours, as is the default of `pooling`.

    Scores under "win3" are 1/2 for the strong arm and 1 - P(strong) for each other one, so that the highest score is the
    source's choice at the threshold 1/2, which for more than two arms is our generalisation; `predict_strong` gives P(strong).  Under
    "soft" they are the distribution, under "quality", which is ours, qualities in units of their spread.  A query that tells
    nothing is left out: one without outcomes, for "soft" one with a single outcome, for "win3" one without an outcome beside the
    strong arm's.  Equal texts are held out together.

    `defer.save` keeps what was trained as arrays, and the model by its hash: the folder must be there when the policy is
    used, and is refused where its hash differs.  Texts of any length, empty ones and control characters are read.

    References
    ----------
    Ong et al. 2025, RouteLLM, arXiv 2406.18665 (BERT classifier).  Stripelis et al. 2024 (soft labels).

    Examples
    --------
    >>> EncoderRouter(freeze=6, epochs=5)
    EncoderRouter(epochs=5, freeze=6)
    """

    validation_losses_: list[float]
    best_epoch_: int

    def __init__(
        self,
        model: str | None = None,
        *,
        labels: Literal["win3", "soft", "quality"] = "win3",
        strong: Any = None,
        kappa: float = 10.0,
        pooling: Literal["mean", "cls"] = "mean",
        freeze: int = 0,
        epochs: int = 3,
        learning_rate: float = 5e-5,
        head_learning_rate: float = 1e-3,
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
        self.labels = labels
        self.strong = strong
        self.kappa = kappa
        self.pooling = pooling
        self.freeze = freeze
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.head_learning_rate = head_learning_rate
        self.batch_size = batch_size
        self.max_length = max_length
        self.max_norm = max_norm
        self.weight_decay = weight_decay
        self.validation_fraction = validation_fraction
        self.cost_weight = cost_weight
        self.random_state = random_state
        self.device = device

    def _folder(self) -> str | None:
        return local_model() if self.model is None else self.model

    def _learn(self, texts: list[str], outcomes: Outcomes) -> Rows:
        check_choices(self, labels=("win3", "soft", "quality"), pooling=("mean", "cls"))
        check_counts("EncoderRouter", least=0, freeze=self.freeze)
        check_counts("EncoderRouter", least=2, max_length=self.max_length)
        training, strong = self._training(), self._find_strong(outcomes)
        weight = np.ones(len(texts)) if outcomes.weight is None else outcomes.weight
        self.weights_, self.validation_losses_, self.best_epoch_, self.model_hash_ = {}, [], 0, ""
        if len(self.arms_) == 1:
            return np.arange(len(texts))
        self._network = self._build()
        self.model_hash_ = checkpoint_hash(str(self._folder()))
        told, loss = self._task(outcomes, strong)
        rows = np.flatnonzero(told & (weight > 0))
        if not len(rows):
            needed = (
                "outcomes of two arms, which soft labels compare"
                if self.labels == "soft"
                else f"an outcome of the strong arm {self.strong_!r} and one of another arm, which win3 compares"
            )
            raise RouterInputError(f"EncoderRouter: no query has {needed}; labels='quality' takes single outcomes")
        network, tokens = self._network.to(training.device), self._tokens(texts)
        module: Any = network
        table: Tokens | Features = tokens
        if network.is_frozen:
            module, table = network.head, Features(self._pooled(tokens))
            training = replace(training, learning_rate=self.head_learning_rate)
        found = training.run(module, table, loss, weight, rows, self.random_state, text_groups(texts))
        self.weights_ = trained_arrays(network)
        self.validation_losses_, self.best_epoch_ = found.losses, found.best_epoch
        return found.held

    def _task(self, outcomes: Outcomes, strong: int) -> tuple[NDArray[np.bool_], Any]:
        """Which queries teach something, shape (n,), and the loss of rows."""
        quality = outcomes.quality
        seen = np.isfinite(quality)
        if self.labels == "quality":
            mass = np.where(seen, 1.0 if outcomes.weight is None else outcomes.weight[:, None], 0.0)
            far = np.where(seen, quality, 0.0) - (mass * np.where(seen, quality, 0.0)).sum() / mass.sum()
            spread = float(np.sqrt((mass * far**2).sum() / mass.sum())) or 1.0
            start = column_means(quality, outcomes.weight, len(outcomes.arms)) / spread
            use_arrays(self._network, {"head.bias": start.astype(np.float32)})
            return np.asarray(seen.any(axis=1)), _squared_loss(quality / spread, seen)
        if self.labels == "soft":
            return seen.sum(axis=1) > 1, _share_loss(soft_labels(quality, kappa=self.kappa), seen)
        gap = quality[:, [strong]] - np.delete(quality, strong, axis=1)
        target = np.where(np.isnan(gap), -1, np.where(gap > 0, 0, np.where(gap == 0, 1, 2)))
        return np.asarray((target >= 0).any(axis=1)), _win_loss(target)

    def _build(self) -> Any:
        base, tokenizer = load_checkpoint("EncoderRouter", self._folder(), "AutoModel")
        outputs = 3 * (len(self.arms_) - 1) if self.labels == "win3" else len(self.arms_)
        network = _encoder(base, tokenizer, self.pooling, outputs)
        layers = freeze_layers("EncoderRouter", base, int(self.freeze))
        network.is_frozen = self.freeze == layers
        if network.is_frozen:
            base.requires_grad_(False)
        return network

    def _tokens(self, texts: list[str]) -> Tokens:
        network = self._trained_network()
        return text_tokens(network.tokenizer, network.pooled.base.config, texts, int(self.max_length))

    def _pooled(self, tokens: Tokens) -> NDArray[np.float32]:
        network = self._trained_network()
        values = network_outputs(network.pooled, tokens, batch_size=int(self.batch_size), device=self.device)
        return values.astype(np.float32)

    def _text_scores(self, texts: list[str]) -> Floats:
        if len(self.arms_) == 1:
            return np.full((len(texts), 1), 0.5)
        network = self._trained_network()
        outputs = network_outputs(network, self._tokens(texts), batch_size=int(self.batch_size), device=self.device)
        if self.labels == "quality":
            return outputs
        if self.labels == "soft":
            return _softmax(outputs)
        return self._against_strong(1.0 - _softmax(outputs.reshape(len(texts), -1, 3))[:, :, 0])

    def predict_strong(self, X: Any) -> Floats:
        """P(strong) against every arm, shape (n, m), 1/2 against itself.

        For soft labels by the shares of the two; for qualities half of 1 + the gap, at least 0 and at most 1, which for
        right and wrong answers is the chance to win, ties halved.

        Parameters
        ----------
        X : list of n texts
        """
        if self.labels == "win3":
            return super().predict_strong(X)
        values = self.predict_scores(X) if self.labels == "soft" else self.predict_quality(X)
        own = values[:, self.arms_ == self.strong_]
        chance = own / (own + values) if self.labels == "soft" else ((1.0 + own - values) / 2.0).clip(0.0, 1.0)
        return np.asarray(chance)


def _encoder(base: Any, tokenizer: Any, pooling: str, outputs: int) -> Any:
    """An encoder, what stands for the text, and a linear head that begins at zero."""
    torch, _ = text_libraries()
    if getattr(base, "pooler", None) is not None:
        base.pooler = None  # of no use to this head

    class Pooled(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.base = base

        def forward(self, ids: Any, mask: Any) -> Any:
            state = self.base(input_ids=ids, attention_mask=mask).last_hidden_state
            one = pooled_states(state, mask, pooling)
            # Encoders differ in the size of their states by orders of magnitude, and a rate of learning should not.
            return torch.nn.functional.layer_norm(one, one.shape[-1:])

    class Encoder(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.pooled = Pooled()
            self.head = torch.nn.Linear(base.config.hidden_size, outputs)
            torch.nn.init.zeros_(self.head.weight)
            torch.nn.init.zeros_(self.head.bias)
            self.tokenizer = tokenizer
            self.is_frozen = False

        def forward(self, ids: Any, mask: Any) -> Any:
            return self.head(self.pooled(ids, mask))

    return Encoder()


def _win_loss(target: NDArray[np.intp]) -> Any:
    """Cross-entropy of three classes, over the arms that were compared."""
    torch, _ = text_libraries()

    def loss(outputs: Any, rows: Rows) -> Any:
        wanted = torch.as_tensor(target[rows], device=outputs.device)
        logs = outputs.reshape(*wanted.shape, 3).log_softmax(dim=2)
        found = torch.gather(logs, 2, wanted.clamp(min=0)[:, :, None])[:, :, 0]
        return -torch.where(wanted >= 0, found, 0.0).sum(dim=1)

    return loss


def _share_loss(target: Floats, seen: NDArray[np.bool_]) -> Any:
    """Cross-entropy of a distribution, over the arms that were observed."""

    def loss(outputs: Any, wanted: Any, there: Any) -> Any:
        logs = outputs.masked_fill(~there, -1e30).log_softmax(dim=1)
        return -(wanted * logs.masked_fill(~there, 0.0)).sum(dim=1)

    return _over_observed(loss, target, seen)


def _squared_loss(quality: Floats, seen: NDArray[np.bool_]) -> Any:
    """Squared error, over the arms that were observed."""
    return _over_observed(
        lambda outputs, wanted, there: (outputs - wanted).masked_fill(~there, 0.0).square().sum(dim=1), quality, seen
    )


def _over_observed(loss: Callable[[Any, Any, Any], Any], table: Floats, seen: NDArray[np.bool_]) -> Any:
    """A loss of rows from one of outputs, what they should be, and where that is known."""
    torch, _ = text_libraries()
    filled = np.where(seen, table, 0.0)

    def of_rows(outputs: Any, rows: Rows) -> Any:
        wanted = torch.as_tensor(filled[rows], dtype=outputs.dtype, device=outputs.device)
        return loss(outputs, wanted, torch.as_tensor(seen[rows], device=outputs.device))

    return of_rows


def _softmax(logits: Floats) -> Floats:
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))
