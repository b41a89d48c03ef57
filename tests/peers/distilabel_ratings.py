"""Gives a file of `rlaif rate` to distilabel and `datasets`, and writes distilabel's pairs for rlaif.

    pip install distilabel==1.5.3 datasets==5.2.0 requests
    rlaif rate in.jsonl --constitution ultrafeedback.toml --principles each \\
        --template ultrafeedback --critic URL#NAME --out rated.jsonl
    python distilabel_ratings.py rated.jsonl pairs.jsonl
    rlaif judge pairs.jsonl …        # reads distilabel's `prompt`, `chosen`, `rejected`

Rows without a rating for each generation are left out here, since FormatTextGenerationDPO raises a
TypeError on a missing one, and so are rows whose ratings are all equal, since it would make the same
text `chosen` and `rejected`. Both are counted.
"""

import json
import sys
import warnings

warnings.simplefilter("ignore")

from datasets import load_dataset
from distilabel.steps import FormatTextGenerationDPO

rated, out = sys.argv[1:3]
rows = load_dataset("json", data_files=rated, split="train").to_list()
assert all(k in rows[0] for k in ("instruction", "generations", "ratings", "rationales", "model_name"))
whole = [r for r in rows if all(x is not None for x in r["ratings"])]
apart = [r for r in whole if max(r["ratings"]) > min(r["ratings"])]
keep = [{k: r[k] for k in ("instruction", "generations", "ratings")} for r in apart]
pairs = next(FormatTextGenerationDPO().process(keep)) if keep else []
with open(out, "w") as f:
    for row, pair in zip(apart, pairs):
        best, worst = max(row["ratings"]), min(row["ratings"])
        assert (pair["chosen_rating"], pair["rejected_rating"]) == (best, worst)
        assert pair["chosen"][-1]["content"] == row["generations"][row["ratings"].index(best)]
        fields = ("prompt_id", "prompt", "chosen", "rejected", "chosen_rating", "rejected_rating")
        f.write(json.dumps({k: pair[k] for k in fields}) + "\n")
print(f"{len(rows)} rows, {len(rows) - len(whole)} without every rating, "
      f"{len(whole) - len(apart)} without a difference, {len(pairs)} pairs")
