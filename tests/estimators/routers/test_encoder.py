"""The encoder router on the installed sentence encoder: labels, texts of every kind, saving, and refusals."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import defer
from defer.estimators.embeddings import local_model
from defer.estimators.routers.encoder import EncoderRouter
from defer.estimators.routers.text_training import FineTuning
from defer.exceptions import RouterInputError
from defer.portfolios.arm_matrix import ArmMatrix

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None or local_model() is None,
    reason="no sentence encoder is installed",
)

TEXTS = [f"add {number} and {number + 3}" for number in range(24)] + [
    f"write a poem about {number}" for number in range(24)
]
QUALITY = np.repeat([[1.0, 0.0], [0.0, 1.0]], 24, axis=0)
HEAD = {"freeze": 6, "epochs": 8, "head_learning_rate": 1e-2, "max_length": 32, "random_state": 0}


@pytest.fixture(scope="module")
def router() -> EncoderRouter:
    return EncoderRouter(**HEAD).fit(TEXTS, QUALITY, cost=np.tile([1.0, 2.0], (48, 1)))


def test_it_learns_which_arm_wins(router: EncoderRouter) -> None:
    assert router.strong_ == 0
    assert router.predict(TEXTS).tolist() == QUALITY.argmax(axis=1).tolist()
    assert router.predict(["add 77 and 12", "write a poem about rain"]).tolist() == [0, 1]
    assert list(router.weights_) == ["head.weight", "head.bias"]
    assert len(router.validation_losses_) == 8
    assert router.validation_losses_[router.best_epoch_ - 1] == min(router.validation_losses_)
    strong, scores = router.predict_strong(TEXTS), router.predict_scores(TEXTS)
    np.testing.assert_array_equal(strong[:, 0], 0.5)
    np.testing.assert_array_equal(strong[:, 1] > 0.5, scores[:, 1] < scores[:, 0])


def test_a_single_query_is_routed_as_in_the_batch_and_a_seed_gives_the_same_router(router: EncoderRouter) -> None:
    texts = [*TEXTS[::6], "a much longer text about nothing in particular, which fills up the batch", ""]
    single = np.concatenate([router.predict_scores([text]) for text in texts])
    np.testing.assert_allclose(single, router.predict_scores(texts), atol=1e-5)
    again = EncoderRouter(**HEAD).fit(TEXTS, QUALITY)
    np.testing.assert_array_equal(again.predict_scores(texts), router.predict_scores(texts))


def test_every_text_is_read(router: EncoderRouter) -> None:
    texts = ["", "x" * 100_000, "word " * 20_000, "\x00\x07\x1b[0m", "日本語のテキスト", "\ud800 lone", "\n\t "]
    assert np.isfinite(router.predict_quality(texts)).all()
    assert router.route(np.array(texts, dtype=object), limit=defer.Budget(mean_cost=1.5), random_state=0).arm.shape == (
        7,
    )


@pytest.mark.parametrize("labels", ["win3", "soft", "quality"])
def test_every_text_is_learned_from(labels: str) -> None:
    texts = [
        "",
        "x" * 100_000,
        "\x00\x07\x1b[0m",
        "a\x00",
        "日本語のテキスト",
        "\ud800 lone",
        "\udfff lone",
        "{query} {0} %s",
    ]
    quality = np.tile([[1.0, 0.0], [0.0, 1.0]], (4, 1))
    router = EncoderRouter(labels=labels, **(HEAD | {"epochs": 1})).fit(texts, quality)
    assert np.isfinite(router.predict_quality(texts)).all()


def test_a_saved_router_predicts_alike_and_asks_for_its_own_model(router: EncoderRouter, tmp_path: Path) -> None:
    defer.save(router, tmp_path / "policy", queries={"text": "prompt"})
    loaded = defer.load(tmp_path / "policy")
    np.testing.assert_array_equal(loaded.predict_scores(TEXTS), router.predict_scores(TEXTS))
    other = tmp_path / "model"
    other.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(str(local_model())) / name, other / name)
    with pytest.raises(
        RouterInputError, match=r"is not the one that this estimator was fitted on \(their SHA-256 differ\)"
    ):
        defer.load(tmp_path / "policy").set_params(model=str(other)).predict(TEXTS)


def test_layers_that_are_trained_are_saved_and_the_others_are_not() -> None:
    router = EncoderRouter(freeze=5, epochs=2, max_length=16, random_state=0).fit(TEXTS[::4], QUALITY[::4])
    names = [name for name in router.weights_ if not name.startswith("head.")]
    assert names
    assert all(".layer.5." in name for name in names)


def test_soft_labels_fit_a_distribution_over_what_was_observed() -> None:
    quality = np.column_stack([QUALITY, np.full(48, np.nan)])
    quality[::5, 2], quality[1] = 0.5, np.nan
    quality[2, 1] = np.nan
    router = EncoderRouter(labels="soft", strong=0, pooling="cls", **HEAD).fit(TEXTS, quality)
    scores = router.predict_scores(TEXTS)
    np.testing.assert_allclose(scores.sum(axis=1), 1.0, atol=1e-12)
    assert router.predict(TEXTS).tolist() == QUALITY.argmax(axis=1).tolist()
    strong = router.predict_strong(TEXTS)
    np.testing.assert_allclose(strong[:, 0], 0.5)
    np.testing.assert_allclose(strong[:, 1], scores[:, 0] / (scores[:, 0] + scores[:, 1]))


@pytest.mark.parametrize("unit", [1.0, 1e4])
def test_qualities_are_learned_from_single_outcomes(unit: float) -> None:
    single = unit * np.where(np.arange(48)[:, None] % 2 == np.arange(2), QUALITY, np.nan)
    router = EncoderRouter(labels="quality", **(HEAD | {"epochs": 20})).fit(TEXTS, single, propensity=np.full(48, 0.5))
    unseen = ["add 77 and 12", "write a poem about rain", "add 31 and 8", "write a poem about stones"]
    assert router.predict(unseen).tolist() == [0, 1, 0, 1]
    assert router.validation_losses_[router.best_epoch_ - 1] < 0.5 * router.validation_losses_[0]
    quality, strong = router.predict_quality(unseen), router.predict_strong(unseen)
    np.testing.assert_array_equal(strong[:, list(router.arms_).index(router.strong_)], 0.5)
    np.testing.assert_array_equal(np.sign(strong[:, 1] - strong[:, 0]), np.sign(quality[:, 0] - quality[:, 1]))
    assert ((strong >= 0.0) & (strong <= 1.0)).all()


def test_the_unit_of_qualities_counts_a_weight_of_k_as_k_rows() -> None:
    texts, quality, times = ["a", "b", "c"], np.array([[1.0, 0.0], [0.5, 4.0], [9.0, 9.0]]), np.array([1, 3, 0])
    options = {"labels": "quality", "epochs": 0, "freeze": 6, "random_state": 0}
    weighted = EncoderRouter(**options).fit(texts, quality, sample_weight=times)
    repeated = EncoderRouter(**options).fit(np.repeat(texts, times).tolist(), np.repeat(quality, times, axis=0))
    np.testing.assert_allclose(weighted.weights_["head.bias"], repeated.weights_["head.bias"], rtol=1e-6)


@pytest.mark.parametrize("labels", ["win3", "soft", "quality"])
def test_equal_texts_are_held_out_together(labels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [text for text in TEXTS for _ in range(2)]
    seen: list[tuple[set[str], set[str]]] = []
    split = FineTuning.split

    def watched(self: FineTuning, rows: Any, random_state: Any, query: Any = None) -> Any:
        train, valid, seed = split(self, rows, random_state, query)
        seen.append(({texts[row] for row in train}, {texts[row] for row in valid}))
        return train, valid, seed

    monkeypatch.setattr(FineTuning, "split", watched)
    EncoderRouter(labels=labels, **(HEAD | {"epochs": 1, "validation_fraction": 0.3})).fit(
        texts, np.repeat(QUALITY, 2, axis=0)
    )
    assert len(seen) == 1
    assert seen[0][1]
    assert not seen[0][0] & seen[0][1]


def test_ties_count_for_the_other_arm() -> None:
    router = EncoderRouter(strong=1, **(HEAD | {"epochs": 20})).fit(TEXTS, np.full((48, 2), 0.5))
    assert router.strong_ == 1
    assert (router.predict_strong(TEXTS)[:, 0] < 0.2).all()
    assert set(router.predict(TEXTS).tolist()) == {0}


def test_three_arms_and_weights() -> None:
    quality = np.column_stack([QUALITY, 1.0 - np.tile([0.0, 1.0], 24)])
    weight = np.r_[np.ones(40), np.zeros(8)]
    router = EncoderRouter(strong=0, validation_fraction=0.0, **HEAD).fit(TEXTS, quality, sample_weight=weight)
    assert router.weights_["head.bias"].shape == (6,)
    assert router.predict_strong(TEXTS).shape == (48, 3)


def test_one_arm_needs_no_network() -> None:
    router = EncoderRouter().fit(TEXTS[:2], ArmMatrix([[1.0], [0.0]], ["only"]))
    assert router.predict(["", "x"]).tolist() == ["only", "only"]
    assert router.weights_ == {}


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.ones((48, 2)), r"EncoderRouter: X must be a list of texts, got ndarray of shape \(48, 2\)"),
        ([*TEXTS[:-1], 7], "EncoderRouter: X must be a list of texts, 1 of 48 are none, the first is 7 in row 47"),
        ("one text", "EncoderRouter: X must be a list of texts, got one str"),
        ([], r"0 sample\(s\)"),
    ],
)
def test_numbers_are_refused(X: Any, message: str) -> None:
    with pytest.raises(RouterInputError, match=message):
        EncoderRouter().fit(X, QUALITY)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": "win2"}, "labels must be one of 'win3', 'soft', 'quality', got 'win2'"),
        ({"pooling": "max"}, "pooling must be one of 'mean', 'cls', got 'max'"),
        ({"freeze": -1}, "freeze must be an integer >= 0, got -1"),
        ({"freeze": 7}, "freeze=7, and the model has 6 layers"),
        ({"epochs": 1.5}, "epochs must be an integer >= 0, got 1.5"),
        ({"learning_rate": 0.0}, "learning_rate must be a number > 0, got 0.0"),
        ({"head_learning_rate": 0.0}, "head_learning_rate must be a number > 0, got 0.0"),
        ({"max_length": 1}, "max_length must be an integer >= 2, got 1"),
        ({"validation_fraction": 1.0}, r"validation_fraction must be a number in \[0, 1\), got 1.0"),
        ({"strong": "huge"}, "there is no arm 'huge'; the arms are"),
        ({"model": "/no/such/folder"}, "there is no model folder at '/no/such/folder'"),
    ],
)
def test_wrong_parameters_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RouterInputError, match=message):
        EncoderRouter(**options).fit(TEXTS, QUALITY)


def test_win3_needs_comparisons_and_a_folder_must_hold_a_model(tmp_path: Path) -> None:
    single = np.where(np.arange(48)[:, None] % 2 == np.arange(2), QUALITY, np.nan)
    chance = np.full(48, 0.5)
    with pytest.raises(
        RouterInputError,
        match="outcome of the strong arm 0 and one of another arm, which win3 compares; labels='quality'",
    ):
        EncoderRouter().fit(TEXTS, single, propensity=chance)
    with pytest.raises(
        RouterInputError, match="outcomes of two arms, which soft labels compare; labels='quality' takes"
    ):
        EncoderRouter(labels="soft").fit(TEXTS, single, propensity=chance)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RouterInputError, match="cannot be loaded as AutoModel"):
        EncoderRouter(str(tmp_path)).fit(TEXTS, QUALITY)
