"""The shared sets with human or model experts, as deferral problems: who answers, who can be asked, what is known before.

    python benchmarks/deferral_sets.py [--sets cifar10h quizbowl …]

prints one line a set and checks the files against the numbers of their README.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from answer_tables import draw_votes, has_one_mode, pooled, wide, yes_no
from deferral_problem import DeferralSet, outcomes, references, rows_of, split
from logged_answer import LoggedAnswer, LoggedFeatures
from routing_sets import DATA
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

__all__ = ["DATA", "DEFAULTS", "SETS", "DeferralSet", "check", "outcomes", "references", "rows_of", "split"]

ASKING = 0.05
"""Cost of asking a person or the dearest service, in units of accuracy: it must be right 5 points more often to pay."""

PEOPLE = f"No source prices a person's answer: {ASKING} per answer is assumed."


FINDINGS = {
    "airspace opacity": "Airspace_Opacity", "fracture": "Fracture",
    "nodule or mass": "Nodule_Or_Mass", "pneumothorax": "Pneumothorax",
}  # fmt: skip


def nih_chest_readers(
    folder: Path, finding: str = "airspace opacity", *, least: int = 300, seed: int = 0
) -> DeferralSet:
    """One finding on chest X-rays: a first reader has read, and the image's other readers can be asked."""
    file = pd.read_parquet(folder / "nih_chest_readers" / "nih_reader_labels.parquet")
    table = file.drop_duplicates(["Image ID", "Reader ID"])
    table = table.assign(reader=pooled("reader " + table["Reader ID"].astype(str), least, "another reader"))
    table = table.sample(frac=1.0, random_state=seed)
    first = table.drop_duplicates("Image ID").set_index("Image ID").sort_index()
    others = table[table.duplicated("Image ID")]
    label = f"{FINDINGS[finding]}_Expert_Label"
    hedged = int(others[label].isna().sum())
    experts = wide(others.dropna(subset=[label]), "Image ID", "reader", label).reindex(index=first.index)
    kept = experts.notna().any(axis=1).to_numpy()
    first, experts = first[kept], experts[kept]
    readings = ["Fracture", "Pneumothorax", "Airspace opacity", "Nodule/mass"]
    X = first[["reader", *readings]].reset_index()
    X["follow_up"] = X.pop("Image ID").str.extract(r"_(\d+)\.png", expand=False).astype(int)
    return DeferralSet(
        name=f"NIH chest readers, {finding}",
        what=(
            f"One X-ray and one finding ({finding}).  No image is in the source: of the readers of an image one, drawn with a "
            "fixed seed, reads first, and the query is who that is, what it read on all four findings and the number of the "
            "image in the patient's series; own is a classifier on this.  Experts are the image's other readers, the "
            f"{experts.shape[1] - 1} with at least {least} readings by name and the rest pooled as another reader; most images "
            f"have two, the other answers are missing, and a hedge counts as no answer ({hedged} here).  "
            f"{(~kept).sum()} images without a second answer and {len(file) - len(table)} double readings are left out.  Caveat of "
            "the source: where three readers agree they agree with the adjudicated truth in more than 99.5%, so first reader and "
            "experts have a part in the truth.  Patients stay together; only the first reader is known, not who is on duty."
        ),
        X=X,
        y=np.array(yes_no(first[f"{FINDINGS[finding]}_GT_Label"]).tolist()),
        experts=experts.apply(yes_no).reset_index(drop=True),
        groups=first["Patient ID"].to_numpy(),
        cost=np.full(experts.shape[1], ASKING),
        cost_note=PEOPLE,
        features=make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore"), ["reader", *readings]),
            (make_pipeline(FunctionTransformer(np.log1p), StandardScaler()), ["follow_up"]),
        ),
        base=LogisticRegression(max_iter=1000),
    )


def hate_speech_annotators(folder: Path, *, seed: int = 0) -> DeferralSet:
    """Tweets: a text classifier, and one or two of the annotators."""
    table = pd.read_parquet(folder / "hate_speech_annotators" / "labeled_data.parquet")
    names = np.array(["hate speech", "offensive", "neither"])
    votes = table[["votes:hate_speech", "votes:offensive_language", "votes:neither"]].to_numpy(dtype=int)
    drawn = draw_votes(votes, 2, np.random.default_rng(seed))
    second = votes.sum(axis=1) >= 4
    rest = votes - np.eye(3, dtype=int)[drawn[:, 0]] - np.eye(3, dtype=int)[drawn[:, 1]] * second[:, None]
    kept = has_one_mode(rest)
    experts = pd.DataFrame(names[drawn], columns=["annotator", "second annotator"], dtype=object)
    experts.loc[~second, "second annotator"] = None
    tweets = table.loc[kept, "tweet"].tolist()
    return DeferralSet(
        name="Hate speech annotators",
        what=(
            "A tweet in three classes.  Own is a classifier on the text.  Experts are votes drawn with a fixed seed, so an "
            "annotator is a draw from the crowd and no person: one for every tweet and a second for the "
            f"{second[kept].sum():,} tweets with at least four votes.  The truth is the majority of the other votes, in which the "
            f"experts have no part; {(~kept).sum():,} tweets whose other votes are tied are left out, so tweets that people find "
            "hard are too few.  For most tweets the truth is the opinion of two people.  Equal tweets stay together."
        ),
        X=tweets,
        y=names[rest[kept].argmax(axis=1)],
        experts=experts[kept].reset_index(drop=True),
        groups=pd.factorize(pd.Series(tweets))[0],
        cost=np.full(2, ASKING),
        cost_note=PEOPLE,
        features=_words(),
        base=LogisticRegression(C=10.0, max_iter=1000),
    )


def cifar10h(folder: Path, *, own_votes: int = 2, seed: int = 0) -> DeferralSet:
    """Human votes on CIFAR-10 test images: some votes are the own side, one is the expert, the rest the truth."""
    counts = pd.read_parquet(folder / "cifar10h" / "cifar10h_counts.parquet").filter(like="count:")
    names = np.array([name.removeprefix("count:") for name in counts])
    votes, hot = counts.to_numpy(dtype=int), np.eye(len(names), dtype=int)
    drawn = draw_votes(votes, own_votes + 1, np.random.default_rng(seed))
    seen = hot[drawn[:, :own_votes]].sum(axis=1)
    rest = votes - hot[drawn].sum(axis=1)
    kept = has_one_mode(rest)
    return DeferralSet(
        name="CIFAR-10H",
        what=(
            f"An image in ten classes, of which only the human votes are there: no images and no true labels.  Own is a "
            f"classifier on the shares of {own_votes} votes, a stand-in for the probabilities of a model; the expert is one more "
            "vote, and the truth the most frequent of all others (44 or more); the three parts are drawn with a fixed seed and "
            f"have no vote in common.  {(~kept).sum()} images whose other votes are tied are left out.  The set shows human "
            "uncertainty and nothing else."
        ),
        X=seen[kept] / own_votes,
        y=names[rest[kept].argmax(axis=1)],
        experts=pd.DataFrame({"person": names[drawn[kept, -1]]}, dtype=object),
        cost=np.full(1, ASKING),
        cost_note=PEOPLE,
        features=FunctionTransformer(),
        base=LogisticRegression(C=10.0, max_iter=1000),
    )


def quizbowl(folder: Path, *, own: str = "M1", least: int = 100, seed: int = 0) -> DeferralSet:
    """Quiz questions: a model, two other models, and teams of people."""
    questions = pd.read_parquet(folder / "quizbowl_human_vs_llm" / "questions.parquet")
    buzzes = pd.read_parquet(folder / "quizbowl_human_vs_llm" / "buzzes.parquet")
    teams = buzzes["kind"] == "human"
    arm = buzzes["player"].mask(teams, pooled(buzzes.loc[teams, "player"], least, "another team"))
    buzzes = buzzes.assign(arm=arm).sample(frac=1.0, random_state=seed)
    quality = wide(buzzes, "question_id", "arm", "correct").reindex(index=questions["question_id"]).astype(float)
    teams_kept = sorted(set(quality) - {"M1", "M2", "M3", "another team"})
    order = [own, *sorted({"M1", "M2", "M3"} - {own}), *teams_kept, "another team"]
    return DeferralSet(
        name="Quizbowl, people and models",
        what=(
            f"A quiz question, known by its category, its length in words and its packet; the texts are withheld.  Own is model "
            f"{own}, experts are the other two models, the {len(teams_kept)} teams of people with at least {least} answers and one "
            "of the other answering teams, drawn with a fixed seed.  Only whether an answer was right is known, not the answer.  "
            "Nobody was asked: a player answers by its own choice after as many words as it likes, so answers are missing because "
            "the packet was not played or because the player would not answer, which is not at random, and accuracy is that of "
            f"answers somebody wanted to give.  Own has answered {quality[own].notna().sum()} of {len(quality)} questions.  "
            "Questions of a packet may stand on both sides of a split, as the packet is a feature."
        ),
        X=questions[["category", "question_words", "packet"]],
        quality=quality[order].reset_index(drop=True),
        cost=np.full(len(order) - 1, ASKING),
        cost_note=f"{PEOPLE}  The models cost the same here.",
        features=make_column_transformer(
            (OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=5), ["category", "packet"]),
            (StandardScaler(), ["question_words"]),
        ),
    )


FRUGALML = ("imdb", "expw", "waimai", "shop", "rafdb", "command", "audiomnist")
_GROUP_OF = {
    "expw": (r"^(.*)_\d+\.jpg$", "Faces on one photo stay together."),
    "command": (r"^COMMAND_([0-9a-f]+)_", "Recordings of one speaker stay together."),
    "audiomnist": (r"^AudioMNIST_\d+_(\d+)_", "Recordings of one speaker stay together."),
}


def frugalml(folder: Path, dataset: str = "imdb") -> DeferralSet:
    """A free model has answered; three commercial services can be asked."""
    table = pd.read_parquet(folder / "frugalml" / f"{dataset}.parquet")
    prices = pd.read_csv(folder / "frugalml" / "prices.csv").query("dataset == @dataset.upper()")
    usd = prices.set_index("service")["usd_per_call"].sort_values()
    own, services = str(usd.index[0]), [str(name) for name in usd.index[1:]]
    answers = {name: table[f"pred:{name}"].astype(object) for name in usd.index}
    labels = sorted({*table["true_label"], *(label for answer in answers.values() for label in answer)})
    pattern, together = _GROUP_OF.get(dataset, (None, ""))
    groups = None
    if pattern is not None:
        # A few background noises have no speaker and stand for themselves.
        groups = pd.factorize(table["item_id"].str.extract(pattern, expand=False).fillna(table["item_id"]))[0]
    return DeferralSet(
        name=f"FrugalML, {dataset.upper()}",
        what=(
            f"An item to be classified, which is not in the source: the query is the label and the confidence that the base "
            f"service, {own}, has given.  Own is this label as logged, and the experts are {', '.join(services)}, which answered "
            f"every item.  Nothing is missing or simulated; the item's file name is not used, as it may hold the label.  {together}"
        ).strip(),
        X=pd.DataFrame({"answer": answers[own], "confidence": table[f"confidence:{own}"].astype(float)}),
        y=np.array(table["true_label"].tolist()),
        experts=pd.DataFrame({name: answers[name] for name in services}),
        groups=groups,
        own=np.array(answers[own].tolist()),
        cost=ASKING * (usd[services] / usd.max()).to_numpy(),
        cost_note=f"Prices per call as in the source, scaled so that the dearest service costs {ASKING} (an assumption).",
        usd=pd.DataFrame(np.tile(usd.to_numpy(), (len(table), 1)), columns=["own", *services]),
        features=LoggedFeatures(labels),
        base=LoggedAnswer(labels),
    )


def routerbench(folder: Path) -> DeferralSet:
    """Prompts: the cheapest of eleven models answers, the others can be asked."""
    table = pd.read_parquet(folder / "routerbench_subset" / "routerbench_subset.parquet")
    usd = table.filter(like="cost_usd:").rename(columns=lambda name: name.removeprefix("cost_usd:"))
    order = usd.mean().sort_values().index.tolist()
    extra = usd[order].mean().to_numpy()[1:] - usd[order[0]].mean()
    return DeferralSet(
        name="RouterBench subset",
        what=(
            f"A prompt of MBPP, ARC-Challenge or Winogrande.  Own is the model of lowest mean cost, {order[0]}, and the experts "
            f"are the other {len(order) - 1}; all have answered, and whether they were right is known, not the answers.  Own and "
            "experts are called in place of each other, before any answer is seen.  Nothing is missing or simulated.  Equal "
            "prompts stay together."
        ),
        X=table["prompt"].tolist(),
        quality=table[[f"score:{arm}" for arm in order]].set_axis(order, axis=1).astype(float),
        groups=pd.factorize(table["prompt"])[0],
        cost=ASKING * extra / extra.max(),
        cost_note=(
            f"Mean logged dollars of all queries above those of own, scaled so that the dearest model costs {ASKING} (an "
            "assumption); ``usd`` has them for every query."
        ),
        usd=usd[order],
        features=_words(),
    )


def _words() -> TfidfVectorizer:
    return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)


SETS: dict[str, Callable[[Path], DeferralSet]] = {
    **{f"nih {finding}": partial(nih_chest_readers, finding=finding) for finding in FINDINGS},
    "hate_speech": hate_speech_annotators,
    "cifar10h": cifar10h,
    "quizbowl": quizbowl,
    **{f"frugalml {dataset}": partial(frugalml, dataset=dataset) for dataset in FRUGALML},
    "routerbench": routerbench,
}
DEFAULTS = (
    "nih airspace opacity", "hate_speech", "cifar10h", "quizbowl",
    "frugalml imdb", "frugalml expw", "frugalml waimai", "routerbench",
)  # fmt: skip


def check(folder: Path) -> int:
    """Compare the files with the derived checks of their README; how many numbers were compared.

    Raises
    ------
    ValueError
        On the first number that differs.
    """
    checks = (_check_readers, _check_votes, _check_quizbowl, _check_frugalml, _check_routerbench)
    return sum(_compare(title, found, stated) for part in checks for title, found, stated in part(folder))


Checked = list[tuple[str, float, str]]


def _compare(title: str, found: float, stated: str) -> int:
    digits = len(stated.partition(".")[2])
    # Half a unit in the last place, and a little for numbers that end on a 5 there.
    if abs(found - float(stated)) > 0.5 * 10.0**-digits + 1e-9:
        raise ValueError(
            f"{title} is {found:.{digits + 2}f}, and the README of the shared sets says {stated}; the file or its reading is "
            "not the one that was described"
        )
    return 1


def _check_readers(folder: Path) -> Checked:
    table = pd.read_parquet(folder / "nih_chest_readers" / "nih_reader_labels.parquet")
    stated = {"fracture": "0.968", "pneumothorax": "0.957", "airspace opacity": "0.884", "nodule or mass": "0.907"}
    right = {
        name: (table[f"{column}_Expert_Label"] == table[f"{column}_GT_Label"]) for name, column in FINDINGS.items()
    }
    by_reader = right["airspace opacity"].groupby(table["Reader ID"]).mean()
    sizes = {"Image ID": "4376", "Reader ID": "22", "Patient ID": "1695"}
    return [
        ("nih: rows", len(table), "13081"),
        *((f"nih: number of different {name}", table[name].nunique(), count) for name, count in sizes.items()),
        *((f"nih: share correct, {name}", right[name].mean(), number) for name, number in stated.items()),
        ("nih: least accurate reader of airspace opacity", by_reader.min(), "0.75"),
        ("nih: most accurate reader of airspace opacity", by_reader.max(), "0.97"),
    ]


def _check_votes(folder: Path) -> Checked:
    tweets = pd.read_parquet(folder / "hate_speech_annotators" / "labeled_data.parquet")
    given = tweets.filter(like="votes:").to_numpy(dtype=int)
    images = pd.read_parquet(folder / "cifar10h" / "cifar10h_counts.parquet").filter(like="count:").sum(axis=1)
    return [
        ("hate speech: rows", len(tweets), "24783"),
        ("hate speech: least votes", given.sum(axis=1).min(), "3"),
        ("hate speech: most votes", given.sum(axis=1).max(), "9"),
        ("hate speech: share of majority classes as counted", (given.argmax(axis=1) == tweets["majority_class"]).mean(), "1"),
        ("cifar10h: rows", len(images), "10000"),
        ("cifar10h: least votes", images.min(), "47"),
        ("cifar10h: most votes", images.max(), "63"),
    ]  # fmt: skip


def _check_quizbowl(folder: Path) -> Checked:
    buzzes = pd.read_parquet(folder / "quizbowl_human_vs_llm" / "buzzes.parquet")
    correct = buzzes.groupby("kind")["correct"].agg(["mean", "size"])
    stated = {"human": ("0.787", "1371"), "model": ("0.709", "378")}
    return [
        (f"quizbowl: {what} of {kind} answers", correct.loc[kind, what], number)
        for kind, numbers in stated.items()
        for what, number in zip(("mean", "size"), numbers, strict=True)
    ]


def _check_frugalml(folder: Path) -> Checked:
    stated = {
        "imdb": {"Google": "0.8645", "Amazon": "0.7911", "GitHub(Vader)": "0.6931", "Baidu": "0.5156"},
        "shop": {"Baidu": "0.9216"}, "waimai": {"Baidu": "0.8895"}, "expw": {"Microsoft": "0.7279"},
        "rafdb": {"Microsoft": "0.7169"}, "command": {"Microsoft": "0.9457"}, "audiomnist": {"Microsoft": "0.9863"},
    }  # fmt: skip
    found: Checked = []
    for dataset, services in stated.items():
        part = frugalml(folder, dataset)
        table, right = pd.read_parquet(folder / "frugalml" / f"{dataset}.parquet"), outcomes(part)
        logged = table[[name for name in table if name.startswith("score:")]]
        free = next(name for name in logged if "GitHub" in name).removeprefix("score:")
        right = right.rename(columns={"own": free})
        same = np.mean([(right[name.removeprefix("score:")] == logged[name]).mean() for name in logged])
        found.append((f"frugalml {dataset}: share of answers scored as logged", same, "1.000000"))
        found += [
            (f"frugalml {dataset}: accuracy of {name}", right[name].mean(), number) for name, number in services.items()
        ]
    return found


def _check_routerbench(folder: Path) -> Checked:
    stated = {
        "gpt-4-1106-preview": ("0.886", "4.999"), "zero-one-ai/Yi-34B-Chat": ("0.777", "0.331"),
        "mistralai/mixtral-8x7b-chat": ("0.738", "0.249"), "gpt-3.5-turbo-1106": ("0.733", "0.421"),
        "claude-v1": ("0.725", "3.591"), "claude-instant-v1": ("0.676", "0.365"),
        "meta/code-llama-instruct-34b-chat": ("0.619", "0.314"), "meta/llama-2-70b-chat": ("0.617", "0.378"),
        "mistralai/mistral-7b-chat": ("0.580", "0.082"), "WizardLM/WizardLM-13B-V1.2": ("0.558", "0.124"),
        "claude-v2": ("0.541", "3.785"),
    }  # fmt: skip
    part = routerbench(folder)
    return [
        ("routerbench: share of prompts with a right model", part.quality.max(axis=1).mean(), "0.979"),
        *((f"routerbench: accuracy of {arm}", part.quality[arm].mean(), number) for arm, (number, _) in stated.items()),
        *((f"routerbench: cost of {arm}", 1000 * part.usd[arm].mean(), number) for arm, (_, number) in stated.items()),
    ]


def line(part: DeferralSet) -> str:
    """Sizes, accuracy of every arm where it answered (own: on the test part of a split), and the share missing."""
    own, rows = part.own, np.arange(len(part))
    if part.kind == "answers" and own is None:
        train, rows = split(part, 0)
        learner = make_pipeline(clone(part.features), clone(part.base)).fit(rows_of(part.X, train), part.y[train])
        own = np.empty(len(part), dtype=part.y.dtype)
        own[rows] = learner.predict(rows_of(part.X, rows))
    right = outcomes(part, own)
    first, *others = part.arms
    accuracy = [
        f"{first} {right[first].iloc[rows].mean():.3f}",
        *(f"{name} {right[name].mean():.3f}" for name in others),
    ]
    missing = right[others].isna().to_numpy().mean()
    return f"{part.name}: n {len(part):,}, J {len(others)}, missing {missing:.3f}; accuracy {', '.join(accuracy)}"


def main() -> None:
    """Read the command line, check, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=tuple(SETS), default=tuple(SETS))
    options = parser.parse_args()
    if not DATA.is_dir():
        print("benchmarks/deferral_sets.py skipped: the shared sets are not here (../shared/data)")
        return
    for name in options.sets:
        try:
            print(line(SETS[name](DATA)), flush=True)
        except FileNotFoundError as error:
            print(f"{name} skipped: {error}")
    try:
        print(f"{check(DATA)} numbers are those of the README")
    except FileNotFoundError as error:
        print(f"comparison with the README skipped: {error}")


if __name__ == "__main__":
    main()
