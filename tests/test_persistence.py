"""Saved policies: they come back the same, and whatever is wrong with them is refused with a reason."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import skops.io
from numpy.testing import assert_array_equal
from packaging.version import Version
from scipy.sparse import csr_array
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

import defer
from defer import Budget, OutcomeLog, QualityTarget, RiskLevel, Share, estimators, evaluate, persistence
from defer.estimators import (
    BradleyTerryRouter,
    CarrotRouter,
    ClusterRouter,
    ConfidenceDeferral,
    ContrastiveProjection,
    DualContrastiveRouter,
    HybridRouter,
    KNNRouter,
    LatentFactorRouter,
    LearnedMapRouter,
    LearnedTriage,
    MatrixFactorizationRouter,
    MultiExpertDeferral,
    PoolVoteRouter,
    PostHocDeferral,
    QualityRouter,
    RandomMixture,
    RewardDistilledRouter,
    SessionRouter,
    SingleArm,
    SingleStageDeferral,
    SoftLabelRouter,
    StackedRouter,
    TextShape,
    TunedRouter,
    TwoStageDeferral,
    make_pipeline,
)
from defer.estimators.base import BaseRouter
from defer.estimators.pipeline import describe
from defer.exceptions import PersistenceError
from defer.model_file import model_bytes, model_from_bytes
from defer.persistence import load, log_hash, manifest, save

NUMERIC: dict[str, Callable[[], Any]] = {
    "best single arm": SingleArm,
    "named single arm": lambda: SingleArm("medium"),
    "mixture": RandomMixture,
    "default": QualityRouter,
    "cost regressor": lambda: QualityRouter(Ridge(), Ridge(), cost_weight=2.0),
    "classifier": lambda: QualityRouter(LogisticRegression()),
    "neighbours, cosine": lambda: KNNRouter(10),
    "neighbours, euclidean with their cost": lambda: KNNRouter(10, metric="euclidean", cost="neighbors"),
    "single stage": lambda: SingleStageDeferral("asymmetric_softmax", C=2.0),
    "single stage, classifiers": lambda: SingleStageDeferral("ova", LogisticRegression()),
    "several experts": lambda: MultiExpertDeferral(cost_weight=2.0),
    "two stages": lambda: TwoStageDeferral(cost_weight=2.0, rescale=True),
    "two stages, network": lambda: TwoStageDeferral(estimator="mlp", max_epochs=2, random_state=0),
    "two stages, classifier": lambda: TwoStageDeferral(estimator=LogisticRegression()),
    "tuned two stages": lambda: TunedRouter(TwoStageDeferral(), limit=Budget(mean_cost=0.01)),
    "post hoc, plug-in": PostHocDeferral,
    "post hoc, regression": lambda: PostHocDeferral("regression", cost_weight=2.0),
    "post hoc, partial": lambda: PostHocDeferral("partial", cost_weight=2.0),
    "confidence": ConfidenceDeferral,
    "triage": LearnedTriage,
    "tuned post hoc": lambda: TunedRouter(PostHocDeferral(), limit=Budget(mean_cost=0.01)),
    "pipeline": lambda: make_pipeline(StandardScaler(), QualityRouter()),
    "hybrid": lambda: HybridRouter(quality_drop=1.0),
    "hybrid, classifier": lambda: HybridRouter(estimator=LogisticRegression()),
    "distilled rewards": RewardDistilledRouter,
    "soft labels, neighbours": lambda: SoftLabelRouter(n_neighbors=5),
    "soft labels, linear": lambda: SoftLabelRouter("linear"),
    "pool vote": PoolVoteRouter,
    "contrastive pool vote": lambda: make_pipeline(
        ContrastiveProjection(max_epochs=2, random_state=0), PoolVoteRouter()
    ),
    "dual contrastive": DualContrastiveRouter,
    "Bradley-Terry": BradleyTerryRouter,
    "matrix factorisation": MatrixFactorizationRouter,
    "clusters": lambda: ClusterRouter(4, cost="cluster", random_state=0),
    "learned map": lambda: LearnedMapRouter(4, random_state=0),
    "latent factors": LatentFactorRouter,
    "carrot": lambda: CarrotRouter(random_state=0),
    "carrot, linear": lambda: CarrotRouter("linear", log_cost=True),
    "stack": lambda: StackedRouter(fallback=False),
    "sessions": lambda: SessionRouter(QualityRouter(), switch_cost=0.1, token_discount=[0.0, 1e-6, 2e-6]),
    "tuned to a budget": lambda: TunedRouter(limit=Budget(mean_cost=0.01)),
    "tuned to a quality": lambda: TunedRouter(QualityRouter(), limit=QualityTarget(0.7)),
    "tuned to a share": lambda: TunedRouter(QualityRouter(), limit=Share("large", at_most=0.3)),
    "tuned to a risk": lambda: TunedRouter(QualityRouter(), limit=RiskLevel(0.9)),
    "tuned without a limit": lambda: TunedRouter(KNNRouter(10)),
    "tuned pipeline": lambda: TunedRouter(make_pipeline(StandardScaler(), KNNRouter(5)), limit=Budget(mean_cost=0.01)),
}

# Their trees are compiled objects whose indexes are not checked, so skops does not trust them, and neither do we.
TREES: dict[str, Callable[[], Any]] = {
    "sklearn.tree._tree.Tree": lambda: RandomForestRegressor(5, max_depth=3, random_state=0),
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor": lambda: HistGradientBoostingRegressor(
        max_iter=5
    ),
}

TEXT: dict[str, Callable[[], Any]] = {
    "default": lambda: estimators.router(embeddings=False),
    "hashing": lambda: make_pipeline(estimators.router(features="hashing", embeddings=False)[0], QualityRouter()),
    "sparse neighbours": lambda: make_pipeline(TfidfVectorizer(), KNNRouter(5, cost="neighbors")),
    "blend": lambda: make_pipeline(estimators.router("auto", embeddings=False)[-1].set_params(fallback=False)),
    "shape": lambda: make_pipeline(TextShape(), QualityRouter()),
    "tuned": lambda: TunedRouter(estimators.router(embeddings=False), limit=Budget(mean_cost=0.01), cv=3),
}


def assert_routes_the_same(one: Any, other: Any, X: Any) -> None:
    first, second = (router.route(X, random_state=3) for router in (one, other))
    assert_array_equal(first.arm, second.arm)
    assert_array_equal(first.propensity, second.propensity)
    assert_array_equal(first.predicted_quality, second.predicted_quality)
    assert_array_equal(first.predicted_cost, second.predicted_cost)
    assert first.arms.tolist() == second.arms.tolist()


@pytest.fixture
def text_log(full_log: OutcomeLog) -> OutcomeLog:
    words = np.array(["tree", "river", "stone", "house", "cloud"])
    picked = words[np.random.default_rng(1).integers(5, size=(len(full_log), 4))]
    kind = np.asarray(full_log.domain)
    return replace(full_log, X=[f"{name} {' '.join(row)}" for name, row in zip(kind, picked, strict=True)])


@pytest.fixture
def policy(tmp_path: Path, full_log: OutcomeLog) -> Path:
    folder = tmp_path / "policy"
    save(QualityRouter().fit(full_log.X, full_log.quality, cost=full_log.cost), folder, log=full_log)
    return folder


def model_of(folder: Path) -> Path:
    (found,) = folder.glob("model-*.skops")
    return found


def rewrite(folder: Path, *, seal: bool = True, **changed: Any) -> None:
    """Change fields of the manifest, and by default its hash with them: what a careful forger would do."""
    path = folder / "manifest.json"
    document = {**json.loads(path.read_text()), **changed}
    if seal:
        content = {name: value for name, value in document.items() if name != "manifest_sha256"}
        document["manifest_sha256"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(document))


def swap_model(folder: Path, data: bytes) -> None:
    """Put another model in place, with hashes that fit."""
    model_of(folder).unlink()
    digest = hashlib.sha256(data).hexdigest()
    (folder / f"model-{digest[:12]}.skops").write_bytes(data)
    rewrite(folder, sha256=digest)


@pytest.mark.parametrize("name", NUMERIC)
def test_a_router_comes_back_the_same(name: str, tmp_path: Path, full_log: OutcomeLog) -> None:
    router = NUMERIC[name]().fit(full_log.X, full_log.quality, cost=full_log.cost)
    save(router, tmp_path / "policy")
    loaded = load(tmp_path / "policy")
    assert_routes_the_same(router, loaded, full_log.X)
    assert repr(loaded) == repr(router)
    assert loaded.cost_weight == router.cost_weight
    limited = Budget(mean_cost=0.012)
    if not name.startswith("named"):
        first, second = (one.route(full_log.X, limit=limited, random_state=1) for one in (router, loaded))
        assert_array_equal(first.arm, second.arm)


@pytest.mark.parametrize("name", TEXT)
def test_a_text_router_comes_back_the_same(name: str, tmp_path: Path, text_log: OutcomeLog) -> None:
    router = TEXT[name]().fit(text_log.X, text_log.quality, cost=text_log.cost)
    save(router, tmp_path / "policy")
    assert_routes_the_same(router, load(tmp_path / "policy"), [*text_log.X[:50], "a text with unseen words", ""])


def test_every_router_of_the_library_is_in_these_tests() -> None:
    known = {type(make()) for make in NUMERIC.values()}
    public = {getattr(estimators, name) for name in estimators.__all__}
    routers = {kind for kind in public if isinstance(kind, type) and issubclass(kind, BaseRouter)}
    # Those that take text have tests of their own, which need transformers.
    elsewhere = {estimators.EncoderRouter, estimators.CausalLMRouter}
    assert routers - {BaseRouter, estimators.BaseDeferral} - elsewhere <= known


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame], ids=["pandas", "polars"])
def test_a_router_fitted_on_frames_comes_back_with_names(frame: Any, tmp_path: Path, full_log: OutcomeLog) -> None:
    X = frame({"kind": full_log.X[:, 0], "size": full_log.X[:, 1]})
    quality = frame({arm: np.asarray(full_log.quality)[:, index] for index, arm in enumerate(full_log.arms)})
    router = QualityRouter().fit(X, quality)
    save(router, tmp_path / "policy")
    loaded = load(tmp_path / "policy")
    assert loaded.arms_.tolist() == ["small", "medium", "large"]
    assert loaded.feature_names_in_.tolist() == ["kind", "size"]
    assert_routes_the_same(router, loaded, X)


@pytest.mark.parametrize("arms", [[3, 7], [True, False], ["é", "模型"]], ids=["int", "bool", "unicode"])
def test_names_of_arms_keep_their_type(arms: list[Any], tmp_path: Path) -> None:
    router = QualityRouter().fit([[0.0], [1.0], [2.0], [3.0]], [arms[0], arms[1], arms[0], arms[1]])
    save(router, tmp_path / "policy")
    assert load(tmp_path / "policy").arms_.tolist() == router.arms_.tolist()
    assert manifest(tmp_path / "policy")["arms"] == router.arms_.tolist()


def test_a_policy_of_an_earlier_release_still_loads(repository: Path) -> None:
    folders = sorted((repository / "tests" / "data").glob("policy-*"))
    assert folders
    for folder in folders:
        saved, here = (
            Version(text) for text in (manifest(folder)["scikit-learn"], persistence.version("scikit-learn"))
        )
        if here.release[:2] < saved.release[:2]:
            pytest.skip(f"{folder.name} was saved with scikit-learn {saved}")
        expected = json.loads((folder / "expected.json").read_text())
        router = load(folder)
        np.testing.assert_allclose(router.predict_quality(expected["queries"]), expected["quality"], rtol=1e-9)
        np.testing.assert_allclose(router.predict_cost(expected["queries"]), expected["cost"], rtol=1e-9)
        assert router.predict(expected["queries"]).tolist() == expected["arm"]
        assert sum(path.stat().st_size for path in folder.iterdir()) < 100_000


def test_the_manifest_says_what_is_inside(tmp_path: Path, full_log: OutcomeLog) -> None:
    router = TunedRouter(limit=Budget(mean_cost=0.01)).fit(full_log.X, full_log.quality, cost=full_log.cost)
    save(router, tmp_path, log=full_log, queries={"features": ["kind", "size"]}, metrics={"gain": 0.25, "bad": np.nan})
    document = json.loads((tmp_path / "manifest.json").read_text(), parse_constant=pytest.fail)
    assert document["schema"] == 1
    assert document["defer"] == defer.__version__
    assert document["router"] == "TunedRouter"
    assert document["arms"] == ["small", "medium", "large"]
    assert document["mean_cost"] == pytest.approx(np.asarray(full_log.cost).mean(axis=0))
    assert document["operating_point"]["limit"] == "Budget(mean_cost=0.01)"
    assert document["operating_point"]["price"] == router.operating_point_.price
    assert document["training_log"] == log_hash(full_log)
    assert document["queries"] == {"features": ["kind", "size"]}
    assert document["metrics"] == {"gain": 0.25, "bad": None}
    assert document["sha256"] == hashlib.sha256(model_of(tmp_path).read_bytes()).hexdigest()
    assert manifest(tmp_path) == document


def test_the_manifest_of_a_router_without_costs_names_none(tmp_path: Path, full_log: OutcomeLog) -> None:
    save(make_pipeline(StandardScaler(), QualityRouter()).fit(full_log.X, full_log.quality), tmp_path)
    document = manifest(tmp_path)
    assert (document["has_cost"], document["mean_cost"], document["operating_point"]) == (False, None, None)
    assert document["training_log"] is None


def test_the_model_file_holds_no_pickle_and_few_files(tmp_path: Path, text_log: OutcomeLog) -> None:
    texts = [f"{text} w{number} v{number}" for number, text in enumerate(text_log.X)]
    router = estimators.router(embeddings=False).fit(texts, text_log.quality)
    vectoriser = router[0].transformer_list[0][1]
    vocabulary = vectoriser.vocabulary_
    assert len(vocabulary) > 500
    save(router, tmp_path)
    with zipfile.ZipFile(model_of(tmp_path)) as archive:
        names = archive.namelist()
        for name in names:
            if name.endswith(".npy"):
                np.load(io.BytesIO(archive.read(name)), allow_pickle=False)
    assert {Path(name).suffix for name in names} <= {".json", ".npy", ".npz"}
    assert len(names) < 40  # skops alone would write one file per word
    assert vectoriser.vocabulary_ is vocabulary
    assert load(tmp_path)[0].transformer_list[0][1].vocabulary_ == vocabulary


def test_an_unfitted_router_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        PersistenceError, match="only a fitted router can be saved, and this QualityRouter has no arms_"
    ):
        save(QualityRouter(), tmp_path / "policy")
    assert not (tmp_path / "policy").exists()


def test_a_plain_pipeline_is_sent_to_make_pipeline(tmp_path: Path, full_log: OutcomeLog) -> None:
    plain = Pipeline([("scale", StandardScaler()), ("route", QualityRouter())]).fit(full_log.X, full_log.quality)
    with pytest.raises(
        PersistenceError, match=r"this Pipeline has no arms_; a pipeline must come from defer\.make_pipeline"
    ):
        save(plain, tmp_path / "policy")


def test_a_policy_is_not_overwritten_unasked(policy: Path, full_log: OutcomeLog) -> None:
    before = {path.name: path.read_bytes() for path in policy.iterdir()}
    with pytest.raises(PersistenceError, match="holds a policy already; pass overwrite=True"):
        save(SingleArm().fit(full_log.X, full_log.quality), policy)
    assert {path.name: path.read_bytes() for path in policy.iterdir()} == before


def test_overwriting_replaces_the_policy_and_nothing_else(policy: Path, full_log: OutcomeLog) -> None:
    (policy / "notes.txt").write_text("ours")
    save(SingleArm().fit(full_log.X, full_log.quality), policy, overwrite=True)
    assert isinstance(load(policy), SingleArm)
    assert (policy / "notes.txt").read_text() == "ours"
    assert sorted(path.name for path in policy.iterdir()) == ["manifest.json", model_of(policy).name, "notes.txt"]


@pytest.mark.parametrize("write", [0, 1], ids=["at the model", "at the manifest"])
def test_a_crash_while_overwriting_leaves_the_old_policy(
    write: int, policy: Path, full_log: OutcomeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def crash(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) > write:
            raise KeyboardInterrupt
        return original(self, target)

    original = Path.replace
    later = SingleArm().fit(full_log.X, full_log.quality)
    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        save(later, policy, overwrite=True)
    monkeypatch.undo()
    assert len(calls) == write + 1
    assert isinstance(load(policy), QualityRouter)
    assert not list(policy.glob(".*"))
    save(SingleArm().fit(full_log.X, full_log.quality), policy, overwrite=True)
    assert isinstance(load(policy), SingleArm)
    assert len(list(policy.glob("model-*"))) == 1


def test_a_crash_while_tidying_up_leaves_the_later_policy(
    policy: Path, full_log: OutcomeLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(self: Path, missing_ok: bool = False) -> None:
        if self.name.startswith("model-"):
            raise KeyboardInterrupt
        original(self, missing_ok)

    original = Path.unlink
    later = SingleArm().fit(full_log.X, full_log.quality)
    monkeypatch.setattr(Path, "unlink", crash)
    with pytest.raises(KeyboardInterrupt):
        save(later, policy, overwrite=True)
    monkeypatch.undo()
    assert isinstance(load(policy), SingleArm)


def test_a_file_is_no_place_for_a_policy(tmp_path: Path, full_log: OutcomeLog) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(PersistenceError, match="is a file; a policy is a folder"):
        save(SingleArm().fit(full_log.X, full_log.quality), tmp_path / "file")


@pytest.mark.parametrize("make", ["missing", "empty"])
def test_a_folder_without_a_policy_says_so(make: str, tmp_path: Path) -> None:
    folder = tmp_path / make
    if make == "empty":
        folder.mkdir()
    with pytest.raises(PersistenceError, match=r"holds no policy: there is no manifest\.json"):
        load(folder)


def test_a_missing_model_is_named(policy: Path) -> None:
    model = model_of(policy)
    model.unlink()
    with pytest.raises(PersistenceError, match=f"has no {model.name}, which its manifest names"):
        load(policy)


@pytest.mark.parametrize("place", [0, 0.5, -1], ids=["first byte", "middle", "last byte"])
def test_a_changed_model_is_refused(place: float, policy: Path) -> None:
    data = bytearray(model_of(policy).read_bytes())
    data[int(place * len(data)) if place >= 0 else -1] ^= 1
    model_of(policy).write_bytes(data)
    with pytest.raises(PersistenceError, match=r"\.skops' was changed after it was saved: its SHA-256"):
        load(policy)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("arms", ["large", "medium", "small"]),
        ("metrics", {"gain": 1.0}),
        ("mean_cost", [0.0, 0.0, 0.0]),
        ("defer", "9.9"),
    ],
)
def test_a_changed_manifest_is_refused(field: str, value: Any, policy: Path) -> None:
    rewrite(policy, seal=False, **{field: value})
    with pytest.raises(PersistenceError, match=r"manifest\.json' was changed after it was saved"):
        load(policy)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"is damaged: it is no JSON \("),
        ("\0", "is damaged: it is no JSON"),
        ("[]", "is damaged: it lacks 'schema'"),
        ('{"schema": 1, "defer": "0.1.0"}', "is damaged: it lacks 'scikit-learn'"),
    ],
)
def test_a_damaged_manifest_is_refused(text: str, message: str, policy: Path) -> None:
    (policy / "manifest.json").write_text(text)
    with pytest.raises(PersistenceError, match=message):
        load(policy)


@pytest.mark.parametrize("field", ["schema", "arms", "sha256", "manifest_sha256", "training_log"])
def test_a_manifest_that_lacks_a_field_names_it(field: str, policy: Path) -> None:
    document = json.loads((policy / "manifest.json").read_text())
    del document[field]
    (policy / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(PersistenceError, match=f"it lacks '{field}'"):
        load(policy)


def test_a_later_format_asks_for_an_upgrade(policy: Path) -> None:
    rewrite(policy, schema=2)
    with pytest.raises(PersistenceError, match=r"has the policy format 2, and defer .* reads up to format 1: upgrade"):
        load(policy)


@pytest.mark.parametrize("changed", [{"schema": "one"}, {"schema": 0}, {"sha256": "../../elsewhere"}, {"sha256": None}])
def test_a_format_or_hash_that_is_none_is_refused(changed: dict[str, Any], policy: Path) -> None:
    rewrite(policy, **changed)
    with pytest.raises(PersistenceError, match="is damaged: its format or its SHA-256 is none"):
        load(policy)


@pytest.mark.parametrize(
    ("saved", "here", "loads"),
    [
        ("0.9.0", "0.10.0", True),
        ("0.10.0", "0.9.0", False),
        ("0.10.0", "0.10.1", True),
        ("0.10.5", "0.10.1", True),
        ("0.10.0.dev1", "0.10.0", True),
        ("0.9.3", "1.0.0", True),
        ("1.0.0", "0.9.9", False),
    ],
)
def test_versions_of_defer_are_compared_as_versions(
    saved: str, here: str, loads: bool, policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewrite(policy, defer=saved)
    monkeypatch.setattr(persistence, "__version__", here)
    if loads:
        assert isinstance(load(policy), QualityRouter)
    else:
        message = f"was saved with defer {saved}, and here is {here}: install that version, or fit again"
        with pytest.raises(PersistenceError, match=message):
            load(policy)


@pytest.mark.parametrize(
    ("saved", "here", "loads"),
    [("1.9.1", "1.10.0", True), ("1.10.0", "1.9.1", False), ("1.9.1", "2.0.0", False), ("2.0", "1.9.1", False)],
)
def test_another_major_or_later_scikit_learn_is_refused(
    saved: str, here: str, loads: bool, policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewrite(policy, **{"scikit-learn": saved})
    monkeypatch.setattr(persistence, "version", lambda package: here)
    if loads:
        assert isinstance(load(policy), QualityRouter)
    else:
        with pytest.raises(PersistenceError, match=f"was saved with scikit-learn {saved}, and here is {here}"):
            load(policy)


def test_a_version_that_is_none_is_damage(policy: Path) -> None:
    rewrite(policy, defer="latest")
    with pytest.raises(PersistenceError, match="is damaged: 'latest' is no version of defer"):
        load(policy)


def test_a_foreign_type_is_refused_when_saving_and_can_be_named(tmp_path: Path, full_log: OutcomeLog) -> None:
    router = make_pipeline(FunctionTransformer(np.linalg.norm, kw_args={"axis": 1, "keepdims": True}), QualityRouter())
    router.fit(full_log.X, full_log.quality)
    with pytest.raises(PersistenceError, match=r"types that are not trusted, the first is 'numpy\.linalg\.norm'"):
        save(router, tmp_path / "policy")
    assert not (tmp_path / "policy").exists()
    save(router, tmp_path / "policy", trusted=["numpy.linalg.norm"])
    with pytest.raises(PersistenceError, match="if you know it, name it in trusted="):
        load(tmp_path / "policy")
    assert_routes_the_same(router, load(tmp_path / "policy", trusted=["numpy.linalg.norm"]), full_log.X)


@pytest.mark.parametrize("name", TREES)
def test_trees_must_be_trusted_by_name(name: str, tmp_path: Path, full_log: OutcomeLog) -> None:
    router = QualityRouter(TREES[name]()).fit(full_log.X, full_log.quality)
    with pytest.raises(PersistenceError, match=f"1 types that are not trusted, the first is '{name}'"):
        save(router, tmp_path / "policy")
    save(router, tmp_path / "policy", trusted=[name])
    assert_routes_the_same(router, load(tmp_path / "policy", trusted=[name]), full_log.X)


def test_a_type_that_skops_cannot_write_is_refused(tmp_path: Path, full_log: OutcomeLog) -> None:
    router = QualityRouter().fit(full_log.X, full_log.quality)
    router.notes_ = (number for number in range(3))
    with pytest.raises(PersistenceError, match="this router cannot be saved so that it loads again"):
        save(router, tmp_path / "policy")


def test_a_hostile_model_with_fitting_hashes_is_refused(policy: Path) -> None:
    swap_model(policy, skops.io.dumps(FunctionTransformer(shutil.rmtree)))
    with pytest.raises(
        PersistenceError, match=r"is not loaded: it holds 1 types that are not trusted, the first is 'shutil\.rmtree'"
    ):
        load(policy)


@pytest.mark.parametrize(
    ("module", "name"),
    [("defer.estimators.embeddings", "Path"), ("defer.estimators.tuning", "clone"), ("defer.estimators.no", "A")],
)
def test_what_our_modules_import_is_not_ours(module: str, name: str) -> None:
    state = {
        "__class__": name, "__module__": module, "__loader__": "ConstructorFromReduceNode", "protocol": 2,
        "content": {"__class__": "tuple", "__module__": "builtins", "__loader__": "TupleNode", "content": []},
    }  # fmt: skip
    forged = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(model_bytes(SingleArm()))) as archive:
        honest = json.loads(archive.read("schema.json"))
    with zipfile.ZipFile(forged, "w") as archive:
        archive.writestr("schema.json", json.dumps({**honest, **state, "protocol": honest["protocol"]}))
    with pytest.raises(PersistenceError, match=f"the first is '{module}.{name}'"):
        model_from_bytes(forged.getvalue())


def test_a_class_that_moved_still_loads_where_its_old_module_hands_it_on(full_log: OutcomeLog) -> None:
    data = model_bytes(SingleArm("medium").fit(full_log.X, full_log.quality))
    moved = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(moved, "w") as target:
        for name in archive.namelist():
            content = archive.read(name)
            if name == "schema.json":
                assert b'"defer.estimators.baselines"' in content
                content = content.replace(b'"defer.estimators.baselines"', b'"defer.estimators"')
            target.writestr(name, content)
    assert isinstance(model_from_bytes(moved.getvalue()), SingleArm)


@pytest.mark.parametrize("data", [b"", b"no archive at all", b"PK\x03\x04 cut off"], ids=["empty", "text", "cut off"])
def test_a_model_that_is_no_archive_is_refused(data: bytes, policy: Path) -> None:
    swap_model(policy, data)
    with pytest.raises(PersistenceError, match="is not loaded: the file cannot be read"):
        load(policy)


def test_a_model_that_is_no_router_is_refused(policy: Path) -> None:
    swap_model(policy, skops.io.dumps(Ridge()))
    with pytest.raises(PersistenceError, match="the arms of the model and of the manifest differ"):
        load(policy)


def test_a_model_with_other_arms_is_refused(policy: Path, full_log: OutcomeLog) -> None:
    swap_model(policy, model_bytes(SingleArm().fit(full_log.X, np.asarray(full_log.quality))))
    with pytest.raises(PersistenceError, match="the arms of the model and of the manifest differ"):
        load(policy)


def test_names_that_are_neither_text_nor_number_are_refused(tmp_path: Path, full_log: OutcomeLog) -> None:
    router = SingleArm().fit(full_log.X, full_log.quality)
    with pytest.raises(PersistenceError, match=r"names of arms and of metrics= must be text or numbers"):
        save(router, tmp_path / "policy", metrics={("a", "pair"): 1.0})
    assert not (tmp_path / "policy").exists()


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        ({}, r", got keys \[\]"),
        ({"prompt": "text"}, r", got keys \['prompt'\]"),
        ({"text": "a", "features": ["b"]}, r", got keys \['text', 'features'\]"),
        ({"text": "a", 3: "b"}, r", got keys \['text', 3\]"),
        ("prompt", ", got 'prompt'"),
        (["prompt"], r", got \['prompt'\]"),
        ({"text": ["prompt"]}, r", and a column is a str; got \['prompt'\]"),
        ({"text": None}, ", and a column is a str; got None"),
        ({"features": "size"}, ", with a list of at least one column; got 'size'"),
        ({"features": []}, r", with a list of at least one column; got \[\]"),
        ({"features": ["size", 3, None]}, ", and a column is a str; got 3 as one of 3"),
    ],
)
def test_names_of_queries_that_would_fail_later_are_refused(
    queries: Any, message: str, tmp_path: Path, full_log: OutcomeLog
) -> None:
    router = SingleArm().fit(full_log.X, full_log.quality)
    form = r"^queries= must be \{'text': column\} or \{'features': \[columns\]\}"
    with pytest.raises(PersistenceError, match=f"{form}{message}$"):
        save(router, tmp_path / "policy", queries=queries)
    assert not (tmp_path / "policy").exists()


def test_the_manifest_names_the_steps_of_a_pipeline(tmp_path: Path, full_log: OutcomeLog) -> None:
    inner = make_pipeline(StandardScaler(), QualityRouter())
    for number, (router, name) in enumerate(
        [(inner, "StandardScaler → QualityRouter"), (TunedRouter(inner), "TunedRouter"), (SingleArm(), "SingleArm")]
    ):
        save(router.fit(full_log.X, full_log.quality, cost=full_log.cost), tmp_path / str(number))
        assert manifest(tmp_path / str(number))["router"] == describe(router) == name
        assert evaluate(router, full_log).router == name


QUERIES: dict[str, Callable[[OutcomeLog], Any]] = {
    "text": lambda log: [f"query {row}" for row in range(len(log))],
    "array": lambda log: log.X,
    "sparse": lambda log: csr_array(log.X),
    "pandas": lambda log: pd.DataFrame(log.X, columns=["kind", "size"]),
    "none": lambda log: None,
}


@pytest.mark.parametrize("kind", QUERIES)
def test_the_hash_of_a_log_survives_parquet_and_sees_every_change(
    kind: str, tmp_path: Path, bandit_log: OutcomeLog
) -> None:
    log = replace(bandit_log, X=QUERIES[kind](bandit_log))
    log.to_parquet(tmp_path / "log.parquet")
    assert log_hash(OutcomeLog.read_parquet(tmp_path / "log.parquet")) == log_hash(log)
    propensity = np.array(log.propensity)
    propensity[7] /= 2
    changed = [log.select(rows=np.arange(len(log))[::-1]), log.select(rows=slice(1, None)), replace(log, cost=None)]
    changed += [replace(log, propensity=propensity, policy=None), replace(log, arms=("tiny", *log.arms[1:]))]
    for name in ("quality", "cost", "latency"):
        table = np.array(getattr(log, name))
        table[7, log.action[7]] = 0.37
        changed += [replace(log, **{name: table})]
    changed += [replace(log, latency=None)]
    assert len({log_hash(one) for one in [log, *changed]}) == 10


def test_the_hash_of_a_log_sees_its_texts() -> None:
    quality = [[1.0, 0.0], [0.0, 1.0]]
    logs = [OutcomeLog.from_arrays(texts, quality) for texts in (["a", "bc"], ["ab", "c"], ["a", "b"])]
    assert len({log_hash(log) for log in logs}) == 3
