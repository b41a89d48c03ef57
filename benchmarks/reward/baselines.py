"""Two rules that a reward model has to beat, on the splits that `rlaif reward` uses.

    python benchmarks/reward/baselines.py pairs.jsonl

`pairs.jsonl` has prompt, chosen, rejected. Train 80 %, validation 10 %, test 10 % by the prompt's hash, as in
crates/rlaif-core/src/seed.rs. Bag of words: logistic regression on the difference of word counts, its
strength chosen on validation. Length: the longer (or, where validation says so, the shorter) is better.
"""
import hashlib, json, struct, sys
import numpy as np
from scipy.sparse import vstack
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

def split(prompt):
    h = hashlib.sha256(struct.pack("<Q", 0))
    for part in ["split", "user", prompt]:
        b = part.encode()
        h.update(struct.pack("<Q", len(b)) + b)
    u = (struct.unpack("<Q", h.digest()[:8])[0] >> 11) / 2**53
    return "train" if u < 0.8 else "validation" if u < 0.9 else "test"

rows = [json.loads(l) for l in open(sys.argv[1])]
parts = {s: [r for r in rows if split(r["prompt"]) == s] for s in ("train", "validation", "test")}
vec = CountVectorizer(min_df=2, token_pattern=r"\S+").fit([r[k] for r in parts["train"] for k in ("chosen", "rejected")])
def diff(part):
    return (vec.transform([r["chosen"] for r in part]) - vec.transform([r["rejected"] for r in part])).astype(float)
X = diff(parts["train"])
X, y = vstack([X, -X]).tocsr(), np.r_[np.ones(X.shape[0]), np.zeros(X.shape[0])]
best = max((LogisticRegression(C=c, fit_intercept=False, max_iter=2000).fit(X, y) for c in (0.01, 0.1, 1, 10)),
           key=lambda m: (m.decision_function(diff(parts["validation"])) > 0).mean())
longer = lambda part: np.mean([np.sign(len(r["chosen"]) - len(r["rejected"])) / 2 + 0.5 for r in part])
sign = longer(parts["validation"]) >= 0.5
print(json.dumps({
    "rows": {s: len(p) for s, p in parts.items()},
    "bag_of_words": (best.decision_function(diff(parts["test"])) > 0).mean().item(),
    "length": float(longer(parts["test"]) if sign else 1 - longer(parts["test"])), "rule": "longer" if sign else "shorter"}))
