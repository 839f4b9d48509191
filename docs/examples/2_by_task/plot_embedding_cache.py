"""
Numbers of a text, computed once
================================

Routers see text as numbers: n-grams, its shape, or sentence embeddings.  Embeddings take most of the time, and a cache
makes every text pay it once, for all routers that are given the same one.
"""

import tempfile
import time

import matplotlib.pyplot as plt
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_union

import defer
from defer.datasets import load_tiny
from defer.estimators import EmbeddingCache, QualityRouter, SentenceEmbedder, TextShape
from defer.estimators.embeddings import local_model

# %%
# The shape of a text is two dozen cheap numbers that do not hang on its language; here those of one query that are not 0.

train, test = load_tiny().split(test_size=0.3, seed=0)
train, test = train.select(rows=slice(0, 500)), test.select(rows=slice(0, 500))
shape = TextShape(standardize=False).fit(train.X)
numbers = dict(zip(shape.get_feature_names_out(), shape.transform(["convert 7 hours to minutes"])[0], strict=True))
print({name: round(float(value), 2) for name, value in numbers.items() if value})

# %%
# The cache is one file in a folder, which several processes may use at once.  The first pass also loads the model.
# Embeddings need the ``text`` extra; without it this page goes on with the rest.

blocks = {
    "shape": [TextShape(scale=0.2)],
    "n-grams": [TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)],
}
blocks["n-grams and shape"] = blocks["n-grams"] + blocks["shape"]
if local_model() is not None:
    cache = EmbeddingCache(tempfile.mkdtemp())
    embedder = SentenceEmbedder(cache=cache)
    for attempt in ("first", "second"):
        begin = time.perf_counter()
        embedder.transform(train.X)
        print(f"{attempt} pass: {(time.perf_counter() - begin) / len(train) * 1e3:.2g} ms per text")
    blocks["embeddings"] = [embedder]
    blocks["all three"] = [*blocks["n-grams and shape"], embedder]

# %%
# The same ridge on each of them.  Copies of the embedder in the last two share the cache: no text is embedded twice.

areas = {}
for name, parts in blocks.items():
    router = defer.make_pipeline(make_union(*parts), QualityRouter(Ridge(1.0), Ridge(1.0)))
    router.fit(train.X, train.quality, cost=train.cost)
    areas[name] = defer.evaluate(router, test).area_over_zero(n_bootstrap=100)
    print(f"{name:<18}area over the zero router {areas[name]}")
if local_model() is not None:
    print(cache.info())

fig, ax = plt.subplots(figsize=(8, 3.6), layout="constrained")
ax.spines[["top", "right"]].set_visible(False)
for name, area in areas.items():
    ax.plot([area.low, area.high], [name, name], color="#0b6e99", lw=2)
    ax.plot(area.value, name, "o", color="#0b6e99", ms=7)
ax.axvline(0, color="#8a8a8a", ls="--", lw=1.2)
ax.margins(y=0.12)
ax.invert_yaxis()
ax.set_xlabel("mean quality above the zero router, with 95% interval")
plt.show()

# %%
# The form of these queries tells the task, and 500 of them tell these features hardly apart: the cheap ones suffice.  Where
# words differ and meaning does not, embeddings are worth their time; compare on the queries that are to be routed.
