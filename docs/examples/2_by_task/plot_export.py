"""
A policy without scikit-learn
=============================

What is fitted here may have to run elsewhere.  `to_numpy` writes linear and nearest-neighbour policies as arrays, and one
file of the library reads them with nothing but NumPy; `to_onnx` writes a graph.
"""

import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline

import defer
from defer import export
from defer.datasets import load_tiny
from defer.estimators import KNNRouter, SoftLabelRouter
from defer.exceptions import RouterInputError
from defer.export import runtime

train, test = load_tiny().split(test_size=0.3, seed=0)
folder = Path(tempfile.mkdtemp())

# %%
# Text in, arm out: the default router on n-grams.

router = defer.router(embeddings=False, cost_weight=2000.0).fit(train.X, train.quality, cost=train.cost)
export.to_numpy(router, folder / "policy.npz")
policy = export.NumpyPolicy(folder / "policy.npz")
arm, quality, cost = policy.decide(test.X[:300])
print("same arm:", np.mean(np.array(policy.arms)[arm] == router.predict(test.X[:300])))
difference = np.abs(quality - router.predict_quality(test.X[:300])).max()
print(f"predicted qualities differ by less than 1e-9: {difference < 1e-9}")

# %%
# The same in another process, in which the library and scikit-learn cannot be imported; ``runtime.py`` is copied beside the policy.

(folder / "runtime.py").write_bytes(Path(runtime.__file__).read_bytes())
program = """
import sys
sys.modules["defer"] = sys.modules["sklearn"] = sys.modules["scipy"] = None
from runtime import NumpyPolicy
print(NumpyPolicy("policy.npz").predict(["reverse the word", "12 + 30"]))
"""
done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True)
print(done.stdout)

# %%
# Numbers in, arrays or a graph out: a router by neighbours on thirty numbers of a text, also as ONNX where that is installed.

numbers = make_pipeline(TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4)), TruncatedSVD(30, random_state=0))
X, X_test = numbers.fit_transform(train.X), numbers.transform(test.X)
neighbours = KNNRouter(40, cost_weight=2000.0).fit(X, train.quality, cost=train.cost)
export.to_numpy(neighbours, folder / "neighbours.npz")
arrays = export.NumpyPolicy(folder / "neighbours.npz")
ways = {"library": neighbours.predict, "NumPy": arrays.predict}
if find_spec("onnx") and find_spec("onnxruntime"):
    import onnxruntime

    export.to_onnx(neighbours, folder / "neighbours.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / "neighbours.onnx", options)
    ways["ONNX"] = lambda X: neighbours.arms_[session.run(["arm"], {"queries": X})[0]]
for name, predict in ways.items():
    agreement = np.mean(np.asarray(predict(X_test)) == neighbours.predict(X_test))
    print(f"{name:<8}same arm on {agreement:.1%} of {len(X_test):,} queries")

# %%
# Time for one query at a time, and for many at once.  Alone, a query is routed fastest by what checks least.


def seconds_per_query(predict, batch, repeats):
    predict(batch)
    begin = time.perf_counter()
    for _ in range(repeats):
        predict(batch)
    return (time.perf_counter() - begin) / repeats / len(batch)


batches = (1, 10, 100, 1000)
fig, ax = plt.subplots(figsize=(8, 4.2), layout="constrained")
ax.spines[["top", "right"]].set_visible(False)
for (name, predict), colour in zip(ways.items(), ("#0b6e99", "#b3541e", "#5a9e6f"), strict=False):
    spent = [seconds_per_query(predict, X_test[:size], max(2, 200 // size)) * 1e3 for size in batches]
    ax.loglog(batches, spent, "o-", color=colour, label=name)
ax.set_xticks(batches, [f"{size:,}" for size in batches])
ax.set_xlabel("queries in a batch")
ax.set_ylabel("milliseconds per query")
ax.legend(loc="upper right")
plt.show()

# %%
# A file holds decisions at one price: budgets, draws at random and operating points that follow the traffic stay with the
# library.  What has no form as arrays, such as a blend or a network, is refused with a message.

try:
    export.to_numpy(SoftLabelRouter().fit(X, train.quality), folder / "refused.npz")
except RouterInputError as error:
    print(error)
