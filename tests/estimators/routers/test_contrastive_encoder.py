"""The fine-tuned encoder: it brings winners together on texts it has not seen, starts at the checkpoint, and comes back the same."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import defer
from defer.estimators import KNNRouter, SentenceEmbedder, make_pipeline
from defer.estimators.embeddings import local_model
from defer.estimators.routers.contrastive_encoder import ContrastiveEncoder
from defer.estimators.routers.contrastive_pairs import expert_pairs
from defer.estimators.routers.encoder import EncoderRouter
from defer.estimators.routers.pool_vote import PoolVoteRouter
from defer.exceptions import RouterInputError
from defer.losses.contrastive import margin_contrastive

pytest.importorskip("torch")
pytest.importorskip("transformers")

TOPICS = [f"topic{number}" for number in range(8)]
ODD = ["", "x" * 100_000, "topic1 " * 15_000, "日本語のテキスト", "\x00\x07\x1b[0m", "a\x00b", "\ud800 lone", "{0} %s"]
QUICK = {"epochs": 3, "learning_rate": 3e-3, "random_state": 0}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A BERT of random weights over a few words, in the layout of Hugging Face."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = str(tmp_path_factory.mktemp("encoder"))
    words = ["[PAD]", "[UNK]", *TOPICS, "easy", "hard"]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]"
    ).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=100, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.5,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.BertModel(config).save_pretrained(folder)
    return folder


def queries(seed: int, n: int) -> tuple[list[str], np.ndarray]:
    """Texts of a topic with one word among seven that tells which arm wins."""
    rng = np.random.default_rng(seed)
    hard = rng.integers(2, size=n)
    texts = []
    for row in range(n):
        words = [TOPICS[number] for number in rng.choice(8, size=2)] * 3
        words.insert(int(rng.integers(7)), ("easy", "hard")[hard[row]])
        texts.append(" ".join(words))
    return texts, hard


@pytest.fixture(scope="module")
def fitted(checkpoint: str) -> ContrastiveEncoder:
    return ContrastiveEncoder(checkpoint, **QUICK).fit(*queries(0, 150))


def test_pairs_are_those_of_the_encoder_as_it_is(checkpoint: str, fitted: ContrastiveEncoder) -> None:
    texts, hard = queries(0, 150)
    start = ContrastiveEncoder(checkpoint, epochs=0).fit(texts, hard)
    assert (start.best_epoch_, start.validation_losses_) == (0, [])
    assert fitted.n_pairs_ == start.n_pairs_ == len(expert_pairs(start.transform(texts), hard))


def test_loss_falls_and_winners_come_together_on_other_texts(checkpoint: str, fitted: ContrastiveEncoder) -> None:
    texts, hard = queries(0, 150)
    fresh, truth = queries(1, 300)
    start = ContrastiveEncoder(checkpoint, epochs=0).fit(texts, hard)
    pairs = expert_pairs(start.transform(fresh), truth)

    def distances(encoder: ContrastiveEncoder) -> np.ndarray:
        vectors = encoder.transform(fresh)
        return 1.0 - (vectors[pairs.first] * vectors[pairs.second]).sum(axis=1)

    before, after = distances(start), distances(fitted)
    same = pairs.same == 1.0
    loss = [margin_contrastive(distance.clip(0.0), pairs.same).value.mean() for distance in (before, after)]
    assert loss[1] < 0.7 * loss[0]
    # Measured .89 to .97 before and .21 to .45 after, and votes of .57 to .63 and .80 to .92, over draws and seeds.
    assert after[same].mean() / after[~same].mean() < 0.7 * before[same].mean() / before[~same].mean()
    assert fitted.validation_losses_[fitted.best_epoch_ - 1] == min(fitted.validation_losses_)
    assert fitted.validation_losses_[-1] < fitted.validation_losses_[0]
    votes = [
        PoolVoteRouter().fit(one.transform(texts), hard).score(one.transform(fresh), truth) for one in (start, fitted)
    ]
    assert votes[1] > votes[0] + 0.1


def test_a_seed_gives_the_same_bits_and_torch_keeps_its_state(checkpoint: str, fitted: ContrastiveEncoder) -> None:
    import torch

    texts, _ = queries(1, 20)
    state = torch.random.get_rng_state()
    again = ContrastiveEncoder(checkpoint, **QUICK).fit(*queries(0, 150))
    other = ContrastiveEncoder(checkpoint, **(QUICK | {"random_state": 1})).fit(*queries(0, 150))
    assert torch.equal(torch.random.get_rng_state(), state)
    np.testing.assert_array_equal(again.transform(texts), fitted.transform(texts))
    assert (other.transform(texts) != fitted.transform(texts)).any()


def test_every_text_is_read_and_alone_as_in_the_batch(checkpoint: str, fitted: ContrastiveEncoder) -> None:
    vectors = fitted.transform(ODD)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    single = np.concatenate([fitted.transform([text]) for text in ODD])
    np.testing.assert_allclose(single, vectors, atol=1e-5)
    assert fitted.transform([]).shape == (0, 16)
    odd = ContrastiveEncoder(checkpoint, epochs=1, max_length=32, random_state=0).fit(ODD, np.arange(len(ODD)) % 2)
    assert np.isfinite(odd.transform(ODD)).all()


def test_no_more_tokens_are_read_than_the_model_has_places_for(checkpoint: str) -> None:
    texts = ["topic1 " * 100, "topic1 " * 100 + "topic2 " * 50]
    for step in (ContrastiveEncoder(checkpoint, epochs=1), EncoderRouter(checkpoint, epochs=1)):
        step.fit(texts, [0, 1])
    vectors = ContrastiveEncoder(checkpoint, epochs=0, max_length=1000).fit(texts, [0, 1]).transform(texts)
    np.testing.assert_array_equal(vectors[0], vectors[1])


def test_a_policy_with_it_comes_back_the_same(checkpoint: str, tmp_path: Path) -> None:
    texts, hard = queries(2, 60)
    for last in (PoolVoteRouter(5), KNNRouter(5)):
        step = ContrastiveEncoder(checkpoint, freeze=1, epochs=1, random_state=0)
        router = make_pipeline(step, last).fit(texts, hard, cost=np.tile([1.0, 2.0], (60, 1)))
        assert not any("embeddings" in name or ".layer.0." in name for name in router[0].weights_)
        assert any(".layer.1." in name for name in router[0].weights_)
        folder = tmp_path / type(last).__name__
        defer.save(router, folder)
        loaded = defer.load(folder)
        np.testing.assert_array_equal(loaded.predict_quality([*texts, *ODD]), router.predict_quality([*texts, *ODD]))
        loaded = defer.load(folder)
        (tmp_path / "other").mkdir(exist_ok=True)
        loaded[0].set_params(model=str(tmp_path / "other"))
        with pytest.raises(
            RouterInputError, match=r"ContrastiveEncoder: the model in .* is not the one that this estimator was fitted"
        ):
            loaded.predict(texts)
    assert not hasattr(clone(router[0]), "weights_")


def test_annotations_alone_bring_turns_of_a_kind_together(checkpoint: str) -> None:
    texts, kind = queries(3, 150)
    annotations = [({}, {"kind": str(one)}) for one in kind]
    fresh, truth = queries(4, 200)
    accuracy = []
    for epochs in (0, 3):
        encoder = ContrastiveEncoder(checkpoint, pairs="task", **(QUICK | {"epochs": epochs}))
        encoder.fit(texts, annotations=annotations)
        accuracy.append(PoolVoteRouter().fit(encoder.transform(texts), kind).score(encoder.transform(fresh), truth))
    assert accuracy[1] > accuracy[0] + 0.1


def test_without_anything_to_learn_the_checkpoint_stays(checkpoint: str) -> None:
    texts, _ = queries(5, 20)
    start = ContrastiveEncoder(checkpoint, epochs=0, pooling="cls").fit(texts, np.arange(20) % 2)
    alike = ContrastiveEncoder(checkpoint, pooling="cls").fit(texts, np.zeros((20, 2)))
    assert (alike.weights_, alike.best_epoch_, alike.validation_losses_) == ({}, 0, [])
    np.testing.assert_array_equal(alike.transform(texts), start.transform(texts))
    assert ContrastiveEncoder(checkpoint).fit(texts[:1], [0]).n_pairs_ == 0


def test_pairs_with_a_text_that_is_held_out_teach_nothing(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from defer.estimators.routers.text_training import FineTuning

    texts, hard = queries(6, 60)
    texts = [text for text in texts for _ in range(2)]
    seen: list[tuple[Any, ...]] = []
    split = FineTuning.split

    def watched(self: FineTuning, rows: Any, random_state: Any, query: Any = None) -> Any:
        found = split(self, rows, random_state, query)
        seen.append((*found, query))
        return found

    monkeypatch.setattr(FineTuning, "split", watched)
    encoder = ContrastiveEncoder(checkpoint, n_pairs=3, **(QUICK | {"epochs": 1})).fit(texts, np.repeat(hard, 2))
    train, valid, _, ends = seen[0]
    assert len(train) + len(valid) == encoder.n_pairs_
    assert len(valid)
    start = ContrastiveEncoder(checkpoint, epochs=0).fit(texts, np.repeat(hard, 2))
    pairs = expert_pairs(start.transform(texts), np.repeat(hard, 2), n_pairs=3)
    text_of = {
        number: texts[row]
        for rows, column in ((pairs.first, 0), (pairs.second, 1))
        for row, number in zip(rows, ends[:, column], strict=True)
    }
    assert len(set(text_of.values())) == len(text_of)
    assert all(not set(ends[row]) <= set(ends[train].ravel()) for row in valid)


@pytest.mark.skipif(local_model() is None, reason="no sentence encoder is installed")
@pytest.mark.skipif(importlib.util.find_spec("sentence_transformers") is None, reason="needs sentence-transformers")
def test_the_installed_model_is_read_as_by_the_sentence_embedder_and_trained() -> None:
    texts = ["What is 12 + 7?", "a cat", "", "half a \x00 word", "日本語", "two cats"]
    start = ContrastiveEncoder(epochs=0).fit(texts, [0, 1, 0, 1, 0, 1])
    np.testing.assert_allclose(start.transform(texts), SentenceEmbedder().transform(texts), atol=1e-5)
    trained = ContrastiveEncoder(freeze=5, learning_rate=1e-3, random_state=0).fit(texts, [0, 1, 0, 1, 0, 1])
    assert abs(trained.transform(texts) - start.transform(texts)).max() > 1e-3


def test_it_is_refused_before_it_is_fitted(checkpoint: str) -> None:
    with pytest.raises(NotFittedError, match="This ContrastiveEncoder instance is not fitted yet"):
        ContrastiveEncoder(checkpoint).transform(["a"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": "all"}, "pairs must be one of 'expert', 'task', 'task\\+expert', got 'all'"),
        ({"pooling": "max"}, "pooling must be one of 'mean', 'cls', got 'max'"),
        ({"n_pairs": 0}, "n_pairs must be an integer >= 1, got 0"),
        ({"margin": 0.0}, r"margin must be a finite number > 0, got 0\.0"),
        ({"freeze": -1}, "freeze must be an integer >= 0, got -1"),
        ({"freeze": 2}, "freeze=2 leaves nothing to train, the model has 2 layers; ContrastiveProjection trains"),
        ({"freeze": 3}, "ContrastiveEncoder: freeze=3, and the model has 2 layers"),
        ({"epochs": -1}, "epochs must be an integer >= 0, got -1"),
        ({"learning_rate": 0.0}, r"learning_rate must be a number > 0, got 0\.0"),
        ({"max_length": 1}, "max_length must be an integer >= 2, got 1"),
        ({"right_above": "much"}, "right_above must be a finite number or None"),
        ({"arm_order": [0]}, r"ContrastiveEncoder: arm_order must name each of the arms \[0, 1\] once"),
        ({"pairs": "task"}, "ContrastiveEncoder: pairs='task' needs annotations, one per query of the 4, got none"),
        ({"model": "/no/such/folder"}, "ContrastiveEncoder: there is no model folder at '/no/such/folder'"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str, checkpoint: str) -> None:
    with pytest.raises(RouterInputError, match=message):
        ContrastiveEncoder(**({"model": checkpoint} | options)).fit(["a", "b", "c", "d"], [0, 1, 0, 1])


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        ("one text", [0], "ContrastiveEncoder: X must be a list of texts, got one str"),
        (np.ones((2, 2)), [0, 1], r"ContrastiveEncoder: X must be a list of texts, got ndarray of shape \(2, 2\)"),
        (["a", None], [0, 1], "1 of 2 are none, the first is None in row 1"),
        ([], [], r"0 sample\(s\)"),
        (["a", "b"], None, "requires y to be passed"),
        (["a", "b"], [0, 1, 0], "inconsistent numbers of samples"),
    ],
)
def test_what_does_not_fit_is_refused(X: Any, y: Any, message: str, checkpoint: str) -> None:
    with pytest.raises(RouterInputError, match=message):
        ContrastiveEncoder(checkpoint).fit(X, y)
