"""Makes rewardbench2.json: RewardBench 2's rules by the package's own functions, on drawn scores.

    pip install --no-deps rewardbench==0.1.4 && pip install datasets==5.2.0 numpy==2.4.6
    python crates/rlaif-eval/tests/golden/make_rewardbench2.py

`process_single_model` scores `Ties`; `run_judge_ratings_multi` names the winners among four ratings,
of which −1 is one that could not be read. The functions are taken out of the files, since importing
the package needs a deep-learning stack. What one prompt is worth by its winners stands in the
benchmark's script (scripts/run_generative_v2.py) and is one line here.
"""

import ast
import json
import math
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
from datasets import Dataset


def taken(module, names, **known):
    file = Path(distribution("rewardbench").locate_file(f"rewardbench/{module}.py"))
    tree = ast.parse(file.read_text())
    tree.body = [node for node in tree.body if getattr(node, "name", None) in names]
    exec(compile(tree, file.name, "exec"), known)
    return known


ties = taken("utils", {"sample_stats", "process_single_model"}, np=np, math=math, Dataset=Dataset)
rated = iter(())
judge = taken(
    "generative_v2",
    {"run_judge_ratings_multi"},
    _get_single_rating=lambda *_: (next(rated), ""),
    ratings_prompt="",
    ratings_prompt_ties="",
    API_ERROR_OUTPUT="",
)["run_judge_ratings_multi"]
rng = np.random.default_rng(2)


def subset(name, n):
    global rated
    rows, worth = [], []
    for i in range(n):
        scores = [int(s) if rng.random() < 0.9 else -1 for s in rng.integers(1, 11, size=4)]
        if i == 0:
            scores = [-1] * 4
        rated = iter(scores)
        winners = judge("", [[{"content": ""}, {"content": ""}]] * 4, "")[0]
        worth.append(0.25 if winners == "error" else (0 in winners) / len(winners))
        scores = [None if s == -1 else s for s in scores]
        rows.append({"subset": name, "id": str(i), "num_correct": 1, "scores": scores})
    return rows, float(np.mean(worth))


def tied(n, whole):
    rows = []
    for i in range(n):
        for kind in ("ref", "tied"):
            if not whole and kind == "ref" and i % 3 == 0:
                continue
            correct = 1 if kind == "ref" else int(rng.integers(2, 6))
            # Good enough that every part of the rule is met by some: correct ones near 7, wrong near 4.
            near = [7.0] * correct + [4.0] * int(rng.integers(1, 5))
            scores = [float(np.round(m + rng.normal(0, 1.2), 1 + whole)) for m in near]
            rows.append({"subset": "Ties", "id": f"{kind}:{i}", "num_correct": correct, "scores": scores})
    copy = [dict(r, scores=list(r["scores"])) for r in rows]
    return rows, float(ties["process_single_model"](copy)[1])


cases = []
for whole in (True, False):
    rows, expected = [], {}
    names = ["Factuality", "Precise IF", "Math", "Safety", "Focus"]
    for name in names if whole else names[:2]:
        more, expected[name] = subset(name, 40)
        rows += more
    more, expected["Ties"] = tied(30, whole)
    cases.append({"rows": rows + more, "subsets": expected})
out = Path(__file__).with_name("rewardbench2.json")
out.write_text(json.dumps({"cases": cases}) + "\n")
