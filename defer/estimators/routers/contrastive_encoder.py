"""A text encoder that is fine-tuned so that queries that the same arm wins lie near each other.

Source: the retriever of OrchestraLLM (Lee, Cheng, Ostendorf, NAACL 2024, arXiv 2311.09758).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from defer.estimators.deferral.parameter_checks import check_choices, check_counts
from defer.estimators.embeddings import local_model
from defer.estimators.queries import check_batch, text_groups
from defer.estimators.routers.contrastive_pairs import Annotation, QueryPairs
from defer.estimators.routers.contrastive_step import ContrastiveStep
from defer.estimators.routers.exemplar_search import unit_rows
from defer.estimators.routers.text_network import (
    KeepsNetwork,
    Tokens,
    checkpoint_hash,
    clean_texts,
    freeze_layers,
    load_checkpoint,
    pooled_states,
    text_libraries,
    text_tokens,
    trained_arrays,
)
from defer.estimators.routers.text_training import FineTuning, network_outputs
from defer.exceptions import RouterInputError
from defer.losses.contrastive import margin_contrastive

__all__ = ["ContrastiveEncoder"]

Rows = NDArray[np.intp]


class ContrastiveEncoder(KeepsNetwork, ContrastiveStep):
    """Embeddings of texts by a local encoder, fine-tuned on pairs of queries by the margin contrastive loss of their cosine distance.

    It stands before a router that looks for neighbours: ``make_pipeline(ContrastiveEncoder(), PoolVoteRouter())``.
    `ContrastiveProjection` trains a linear head on frozen embeddings instead, which takes seconds.

    Parameters
    ----------
    model : str, optional
        Folder of a checkpoint that transformers loads as `AutoModel`, with its tokenizer, such as a model of
        sentence-transformers.  None takes the one that an installed package carries.
    pairs : {"expert", "task", "task+expert"}, default="expert"
        Near neighbours, together where the same arm won; turns of dialogues, together where their annotations are alike; or
        both.
    pooling : {"mean", "cls"}, default="mean"
        What stands for the text: the mean of its tokens' states, or the state of the first token.
    n_pairs : int, default=10
        Neighbours of every query, and turns at each end of the similarity of annotations.
    margin : float, default=1.0
        Cosine distance from which queries that do not belong together are left in peace.
    right_above : float, optional
        As for `PoolVoteRouter`: above which quality an answer is right.
    arm_order : sequence of names of arms, optional
        From the cheapest: of several arms that are right the first wins.  None takes the mean of `cost`, where `fit` is given
        it, else the order of the columns; a pipeline hands on no cost.
    freeze : int, default=0
        Embeddings of tokens and so many layers, from the first, stay as they are; fewer than the model has.
    epochs : int, default=1
        0 takes the checkpoint as it is.
    learning_rate : float, default=2e-5
        The most that the schedule reaches.
    batch_size : int, default=16
        Pairs, and texts to be transformed.
    max_length : int, default=256
        Tokens of a text that are read, from the first; fewer where the model has fewer places.
    max_norm : float, default=1.0
        Longer gradients are shortened to this length.
    weight_decay : float, default=0.01
    validation_fraction : float, default=0.1
        Texts held out; the epoch of least loss on pairs with one of them is kept.  0 takes the training pairs.
    random_state : int, Generator, RandomState instance or None
    device : str, default="cpu"
        Where torch trains and transforms.

    Attributes
    ----------
    weights_ : dict of str to array
        Parameters that were trained.
    model_hash_ : str
        SHA-256 of the model folder.
    n_pairs_ : int
        Pairs that were found.
    validation_losses_ : list of float
        Mean loss of a pair after every epoch; empty where there was nothing to learn from, such as pairs of one kind only.
    best_epoch_ : int
        Whose weights are kept, counted from 1; 0 where nothing was trained.

    Raises
    ------
    MissingExtraError
        If torch or transformers is not installed.
    RouterInputError
        If queries are no texts, there is no model folder, or an option is out of its range.

    Notes
    -----
    That the whole encoder learns, by pairs taken once, of its embeddings as they are, follows the source, as do the loss and the
    roles of the pairs; number of pairs, margin and schedule are ours.  Pairs must be made anew, and the encoder fitted anew, when
    arms change.  An epoch reads two texts for each of about 10 pairs a query.

    `defer.save` keeps what was trained as arrays, and the model by its hash, as for `EncoderRouter`.  Texts of any length, empty
    ones and control characters are read; half of a surrogate pair is read as "?".

    References
    ----------
    Lee, Cheng, Ostendorf 2024, OrchestraLLM, arXiv 2311.09758.

    Examples
    --------
    >>> from defer.estimators import PoolVoteRouter, make_pipeline
    >>> router = make_pipeline(ContrastiveEncoder(freeze=5, random_state=0), PoolVoteRouter(3))
    >>> router[0]
    ContrastiveEncoder(freeze=5, random_state=0)
    """

    n_pairs_: int
    validation_losses_: list[float]
    best_epoch_: int

    def __init__(
        self,
        model: str | None = None,
        *,
        pairs: Literal["expert", "task", "task+expert"] = "expert",
        pooling: Literal["mean", "cls"] = "mean",
        n_pairs: int = 10,
        margin: float = 1.0,
        right_above: float | None = None,
        arm_order: Sequence[Any] | None = None,
        freeze: int = 0,
        epochs: int = 1,
        learning_rate: float = 2e-5,
        batch_size: int = 16,
        max_length: int = 256,
        max_norm: float = 1.0,
        weight_decay: float = 0.01,
        validation_fraction: float = 0.1,
        random_state: Any = None,
        device: str = "cpu",
    ) -> None:
        self.model = model
        self.pairs = pairs
        self.pooling = pooling
        self.n_pairs = n_pairs
        self.margin = margin
        self.right_above = right_above
        self.arm_order = arm_order
        self.freeze = freeze
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_length = max_length
        self.max_norm = max_norm
        self.weight_decay = weight_decay
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.device = device

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        return tags

    def fit(
        self,
        X: Any,
        y: ArrayLike | None = None,
        *,
        cost: ArrayLike | None = None,
        annotations: Sequence[Annotation] | None = None,
    ) -> Self:
        """Find pairs and fine-tune the encoder.

        Parameters
        ----------
        X : list of n texts
        y : array or frame of shape (n, m), or array of shape (n,)
            As for a router: quality of every arm, or labels; not needed for task pairs.
        cost : array or frame of shape (n, m), optional
            Orders the arms, where `arm_order` does not.
        annotations : sequence of n pairs of mappings, optional
            For task pairs: the state before each turn, and what the turn says.

        Returns
        -------
        self

        Raises
        ------
        RouterInputError
            As the class says; also if `y` or `annotations` is needed and not there or does not fit, or `arm_order` does not name
            every arm once.
        """
        texts = self._read(X)
        check_batch(texts)
        training = self._check_options()
        self._network = self._build().to(self.device)
        self.model_hash_ = checkpoint_hash(str(self._folder()))
        self.weights_, self.validation_losses_, self.best_epoch_ = {}, [], 0
        tokens = self._tokens(texts)
        pairs = self._find_pairs(self._embeddings(tokens), y, cost, annotations)
        self.n_pairs_ = len(pairs)
        if len(pairs) and 0.0 < pairs.same.mean() < 1.0:
            self._train(training, tokens, pairs, texts)
        return self

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Embeddings of length 1, shape (n, d), float32.

        Parameters
        ----------
        X : list of n texts
        """
        check_is_fitted(self, "weights_")
        texts = self._read(X)
        if not texts:
            return np.zeros((0, self._n_features_out), dtype=np.float32)
        return self._embeddings(self._tokens(texts))

    @property
    def _n_features_out(self) -> int:
        return int(self._trained_network().base.config.hidden_size)

    def _folder(self) -> str | None:
        return local_model() if self.model is None else self.model

    def _check_options(self) -> FineTuning:
        owner = type(self).__name__
        check_choices(self, pooling=("mean", "cls"))
        self._check_pair_options()
        check_counts(owner, least=0, freeze=self.freeze)
        check_counts(owner, least=2, max_length=self.max_length)
        names = ("epochs", "learning_rate", "batch_size", "max_norm", "weight_decay", "validation_fraction", "device")
        return FineTuning(owner, **{name: getattr(self, name) for name in names})

    def _build(self) -> Any:
        owner = type(self).__name__
        base, tokenizer = load_checkpoint(owner, self._folder(), "AutoModel")
        layers = freeze_layers(owner, base, int(self.freeze))
        if self.freeze == layers:
            raise RouterInputError(
                f"{owner}: freeze={self.freeze} leaves nothing to train, the model has {layers} layers; ContrastiveProjection trains "
                "a head on frozen embeddings"
            )
        return _text_encoder(base, tokenizer, self.pooling)

    def _read(self, X: Any) -> list[str]:
        return clean_texts(type(self).__name__, X)

    def _tokens(self, texts: list[str]) -> Tokens:
        network = self._trained_network()
        return text_tokens(network.tokenizer, network.base.config, texts, int(self.max_length))

    def _embeddings(self, tokens: Tokens) -> NDArray[np.float32]:
        network = self._trained_network()
        values = network_outputs(network, tokens, batch_size=int(self.batch_size), device=self.device)
        return np.asarray(unit_rows(values), dtype=np.float32)

    def _train(self, training: FineTuning, tokens: Tokens, pairs: QueryPairs, texts: list[str]) -> None:
        torch, _ = text_libraries()
        margin = float(self.margin)

        def loss(states: Any, rows: Rows) -> Any:
            one, other = states.chunk(2)
            distance = (1.0 - torch.nn.functional.cosine_similarity(one, other, dim=1)).clamp(min=0.0)
            same = torch.as_tensor(pairs.same[rows], dtype=distance.dtype, device=distance.device)
            return margin_contrastive(distance, same, margin=margin).value

        twins = text_groups(texts)
        assert twins is not None
        ends = np.column_stack([twins[pairs.first], twins[pairs.second]])
        found = training.run(
            self._network, _PairTokens(tokens, pairs), loss, np.ones(len(pairs)), np.arange(len(pairs)), self.random_state, ends
        )  # fmt: skip
        self.weights_ = trained_arrays(self._network)
        self.validation_losses_, self.best_epoch_ = found.losses, found.best_epoch


@dataclass(frozen=True, eq=False)
class _PairTokens:
    """Tokens of pairs of texts: the first ones of a batch, and under them the second ones."""

    tokens: Tokens
    pairs: QueryPairs

    def batch(self, rows: Rows) -> tuple[Any, Any]:
        return self.tokens.batch(np.concatenate([self.pairs.first[rows], self.pairs.second[rows]]))


def _text_encoder(base: Any, tokenizer: Any, pooling: str) -> Any:
    torch, _ = text_libraries()
    if getattr(base, "pooler", None) is not None:
        base.pooler = None  # it changes no state of a token

    class TextEncoder(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.base = base
            self.tokenizer = tokenizer

        def forward(self, ids: Any, mask: Any) -> Any:
            return pooled_states(self.base(input_ids=ids, attention_mask=mask).last_hidden_state, mask, pooling)

    return TextEncoder()
