"""The language-model router: over bytes by default, and from any local checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import defer
from defer.estimators.routers.causal_lm import CausalLMRouter
from defer.estimators.routers.score_prompts import ByteTokenizer, PromptShape, score_labels
from defer.estimators.routers.text_training import FineTuning
from defer.exceptions import RouterInputError

pytest.importorskip("torch")
pytest.importorskip("transformers")

TEXTS = [f"add {number} and {number + 3}" for number in range(24)] + [
    f"write a poem about {number}" for number in range(24)
]
QUALITY = np.repeat([[1.0, 0.0], [0.5, 0.75]], 24, axis=0)
SMALL = {"width": 32, "max_length": 48, "epochs": 6, "learning_rate": 5e-3, "random_state": 0}


@pytest.fixture(scope="module")
def router() -> CausalLMRouter:
    return CausalLMRouter(**SMALL).fit(TEXTS, QUALITY, cost=np.tile([2.0, 1.0], (48, 1)))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Llama of random weights with a tokenizer of its own, in the layout of Hugging Face."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    folder = str(tmp_path_factory.mktemp("checkpoint"))
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, special_tokens=["<s>"], show_progress=False),
    )
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>").save_pretrained(folder)
    config = transformers.LlamaConfig(
        vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_scores_one_to_five_cut_the_range_of_qualities() -> None:
    assert score_labels(np.array([[0.0, 0.25, 0.5, 0.75, 1.0]])).tolist() == [[0, 1, 2, 3, 4]]
    assert score_labels(np.array([[-2.0, 2.0, 0.5, 0.49, np.nan]])).tolist() == [[0, 4, 3, 2, -1]]
    assert score_labels(np.full((2, 2), 0.3)).tolist() == [[4, 4], [4, 4]]


def test_a_prompt_loses_the_end_of_its_query_only() -> None:
    shape = PromptShape("<{arm}> {query} [{arm}]", ByteTokenizer(), 20)
    found = [bytes(ids.tolist()).decode() for ids in shape.tokens(["short", "x" * 50, ""], ["a", "bcd"]).ids]
    assert found == [
        "<a> short [a]",
        "<bcd> short [bcd]",
        "<a> xxxxxxxx [a]",
        "<bcd> xxxxxxxx [bcd]",
        "<a>  [a]",
        "<bcd>  [bcd]",
    ]
    with pytest.raises(RouterInputError, match="max_length=9 leaves no room for a query: the template takes 12 tokens"):
        PromptShape("<{arm}> {query} [{arm}]", ByteTokenizer(), 9).tokens(["q"], ["bcd"])
    with pytest.raises(RouterInputError, match=r"template must hold \{query\} once, got 'no'"):
        PromptShape("no", ByteTokenizer(), 9)


def test_it_learns_whose_answer_is_good(router: CausalLMRouter) -> None:
    assert router.strong_ == 0
    assert router.predict(TEXTS).tolist() == [0] * 24 + [1] * 24
    strong = router.predict_strong(TEXTS)
    np.testing.assert_allclose(strong[:, 1], 1.0 - router.predict_scores(TEXTS)[:, 1])
    assert (strong[:24, 1] > 0.5).all()
    assert router.validation_losses_[router.best_epoch_ - 1] == min(router.validation_losses_)
    # Scores of 4 are not good where 5 is asked for.
    strict = CausalLMRouter(good=5, **SMALL).fit(TEXTS, QUALITY)
    assert set(strict.predict(TEXTS).tolist()) == {0}


def test_single_queries_seeds_and_saving(router: CausalLMRouter, tmp_path: Path) -> None:
    texts = [*TEXTS[::6], "", "x" * 100_000, "\x00\x07\x1b[0m", "日本語のテキスト", "\ud800 lone"]
    scores = router.predict_scores(texts)
    assert np.isfinite(scores).all()
    single = np.concatenate([router.predict_scores([text]) for text in texts])
    np.testing.assert_allclose(single, scores, atol=1e-5)
    again = CausalLMRouter(**SMALL).fit(TEXTS, QUALITY)
    np.testing.assert_array_equal(again.predict_scores(texts), scores)
    defer.save(router, tmp_path / "policy")
    np.testing.assert_array_equal(defer.load(tmp_path / "policy").predict_scores(texts), scores)


def test_every_text_is_learned_from_and_none_is_a_template() -> None:
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
    router = CausalLMRouter(**(SMALL | {"epochs": 1})).fit(texts, np.tile([[1.0, 0.0], [0.0, 1.0]], (4, 1)))
    assert np.isfinite(router.predict_quality(texts)).all()
    shape = PromptShape("<{arm}> {query}", ByteTokenizer(), 64)
    found = [bytes(ids.tolist()).decode() for ids in shape.tokens(["{arm} {query} {0} %s"], ["a{query}"]).ids]
    assert found == ["<a{query}> {arm} {query} {0} %s"]


def test_every_other_arm_has_a_score_of_its_own() -> None:
    quality = np.column_stack([np.full(48, 0.9), np.repeat([1.0, 0.0], 24), np.repeat([0.0, 1.0], 24)])
    quality[::12, 1] = np.nan
    router = CausalLMRouter(strong=0, **(SMALL | {"epochs": 30, "batch_size": 8})).fit(TEXTS, quality)
    assert np.mean(router.predict(TEXTS) == np.repeat([1, 2], 24)) > 0.9
    with pytest.raises(RouterInputError, match=r"template must hold \{arm\} where 2 arms are scored, got '\{query\}:'"):
        CausalLMRouter(template="{query}:").fit(TEXTS, quality)


def test_any_local_checkpoint_is_loaded_and_fine_tuned(checkpoint: str, tmp_path: Path) -> None:
    options = {"epochs": 8, "batch_size": 4, "learning_rate": 3e-3, "random_state": 0}
    router = CausalLMRouter(checkpoint, **options).fit(TEXTS, QUALITY)
    assert router.predict(TEXTS).tolist() == [0] * 24 + [1] * 24
    defer.save(router, tmp_path / "policy")
    loaded = defer.load(tmp_path / "policy")
    np.testing.assert_array_equal(loaded.predict_scores(TEXTS), router.predict_scores(TEXTS))
    frozen = CausalLMRouter(checkpoint, freeze=1, **(options | {"epochs": 1})).fit(TEXTS, QUALITY)
    assert not any("embed_tokens" in name or ".layers.0." in name for name in frozen.weights_)
    assert any(".layers.1." in name for name in frozen.weights_)
    as_it_is = CausalLMRouter(checkpoint, epochs=0, template="{query}").fit(TEXTS, QUALITY)
    assert as_it_is.best_epoch_ == 0
    assert np.isfinite(as_it_is.predict_scores(["", "x" * 100_000])).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"good": 1}, "good must be an integer from 2 to 5, got 1"),
        ({"width": 30}, "width must be a multiple of heads, got width=30 and heads=4"),
        ({"score_tokens": "12345"}, "score_tokens must be five texts, got '12345'"),
        ({"score_tokens": ("1", "2", "3", "4", "4")}, "must be five texts that end in different tokens"),
        ({"freeze": 1}, "freeze=1 needs model="),
        ({"max_length": 7}, "max_length must be an integer >= 8, got 7"),
        ({"batch_size": 0}, "batch_size must be an integer >= 1, got 0"),
        ({"model": "/no/such/folder"}, "CausalLMRouter: there is no model folder at '/no/such/folder'"),
    ],
)
def test_wrong_parameters_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RouterInputError, match=message):
        CausalLMRouter(**options).fit(TEXTS, QUALITY)


def test_outcomes_of_the_strong_arm_alone_do_not_teach() -> None:
    weight = np.ones(48)
    quality = QUALITY.copy()
    quality[:, 1] = np.nan
    quality[:24, 1] = 0.2
    weight[24:] = 0.0
    weight[0] = 0.0
    assert CausalLMRouter(**(SMALL | {"epochs": 1})).fit(TEXTS, quality, sample_weight=weight).strong_ == 0
    with pytest.raises(RouterInputError, match="CausalLMRouter: X must be a list of texts, got ndarray"):
        CausalLMRouter().fit(np.ones((48, 2)), QUALITY)


def test_equal_texts_are_held_out_together(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [text for text in TEXTS for _ in range(2)]
    quality = np.column_stack([np.repeat(QUALITY, 2, axis=0), np.tile([0.0, 1.0], 48)])
    seen: list[tuple[set[str], set[str]]] = []
    split = FineTuning.split

    def watched(self: FineTuning, rows: Any, random_state: Any, query: Any = None) -> Any:
        train, valid, seed = split(self, rows, random_state, query)
        # Two prompts a query: every arm but the strong one.
        seen.append(({texts[row // 2] for row in train}, {texts[row // 2] for row in valid}))
        return train, valid, seed

    monkeypatch.setattr(FineTuning, "split", watched)
    CausalLMRouter(**(SMALL | {"epochs": 1, "validation_fraction": 0.3})).fit(texts, quality)
    assert seen[0][1]
    assert not seen[0][0] & seen[0][1]
