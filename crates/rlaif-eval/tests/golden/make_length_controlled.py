"""Makes length_controlled.json: what alpaca_eval 0.6.6 itself says.

    pip install alpaca_eval==0.6.6 scikit-learn==1.9.1 pandas==3.1.1 patsy==1.0.3
    python crates/rlaif-eval/tests/golden/make_length_controlled.py DATA_FOLDER

`cases` hold drawn annotations with the results; `recorded` holds results alone, for every model of
the data folder's AlpacaEval annotations (which may not be copied; the test reads them there). The
benchmark's own difficulties and gamed baselines are a download of alpaca_eval's: in their place
stands a table of the same layout made by `gamed` below, which the test makes again.
"""

import gzip
import json
import math
import platform
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

import alpaca_eval.metrics.glm_winrate as glm
import numpy as np
import pandas as pd

HERE = Path(__file__).parent
MINIMAL, FULL = "length_controlled_minimal", "length_controlled_v1"


def gamed(instructions):
    """Two baselines, brief and wordy, on each instruction."""
    rows = []
    for model, side in (("brief", -1), ("wordy", 1)):
        for i in range(instructions):
            difficulty = math.sin(i)
            length = side * (0.25 + (i % 7) / 4)
            logit = -0.6 * math.tanh(length) + 0.3 * difficulty + math.cos(3 * i)
            rows.append(
                {
                    "model": model,
                    "preference": 1 / (1 + math.exp(-logit)),
                    "index": i,
                    "std_delta_len": length,
                    "instruction_difficulty": difficulty,
                    "not_gamed_baseline": False,
                }
            )
    return pd.DataFrame(rows)


def ask(annotations, name, instructions):
    """alpaca_eval's answer on a table with `preference`, `output_1`, `output_2` and `index`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "df_gamed.csv"
        gamed(instructions).to_csv(path, index=False, float_format="%.17g")
        glm.hf_hub_download = lambda **_: path
        table = annotations.set_index("index")
        table["generator_1"], table["generator_2"] = "reference", "model"
        table["annotator"] = "judge"
        got = glm.get_length_controlled_winrate(
            table, glm_name=name, save_weights_dir=None, is_warn_extreme_changes=False
        )
        return [got["length_controlled_winrate"], got["lc_standard_error"]]


def drawn():
    rng = np.random.default_rng(12)
    cases = []
    for n, kind, name in (
        (150, "soft", MINIMAL),
        (80, "verdicts", MINIMAL),
        (24, "soft", MINIMAL),
        (9, "verdicts", MINIMAL),
        (150, "soft", FULL),
        (80, "verdicts", FULL),
        (60, "gaps", FULL),
    ):
        one, two = rng.integers(1, 900, size=n), rng.integers(1, 900, size=n)
        logit = (two - one) / 400 + rng.normal(size=n) - 0.3
        preference = 1 + 1 / (1 + np.exp(-logit))
        if kind == "verdicts":
            preference = np.where(rng.random(n) < 0.1, rng.choice([0.0, 1.5], size=n), preference.round())
        if kind == "gaps":
            preference[rng.random(n) < 0.2] = np.nan
        table = pd.DataFrame(
            {
                "preference": preference,
                "output_1": ["é" * k for k in one],
                "output_2": ["x" * k for k in two],
                "index": rng.permutation(n + 5)[:n],
            }
        )
        expected = ask(table, name, n + 5)
        won = [
            None if math.isnan(p) else 0.5 if p == 0 else p - 1 for p in preference.tolist()
        ]
        cases.append(
            {
                "benchmark": n + 5 if name == FULL else None,
                "won": won,
                "length_difference": (one - two).tolist(),
                "instruction": table["index"].tolist(),
                "win_rate": expected[0],
                "standard_error": expected[1],
            }
        )
    return cases


def recorded(data):
    found = {}
    for annotator, name in (
        ("gpt4", "gpt4_preferences_dev.jsonl.gz"),
        ("weighted_gpt4_turbo", "weighted_gpt4_turbo_preferences_dev.jsonl.gz"),
    ):
        with gzip.open(data / "alpaca_eval" / name, "rt", encoding="utf-8") as file:
            table = pd.DataFrame([json.loads(line) for line in file])
        place = {text: i for i, text in enumerate(sorted(table["instruction"].unique()))}
        table["index"] = table["instruction"].map(place)
        for model, rows in table.groupby("generator_2", sort=False):
            rows = rows[["preference", "output_1", "output_2", "index"]].reset_index(drop=True)
            found[f"{annotator}/{model}"] = {
                "minimal": ask(rows, MINIMAL, len(place)),
                "full": ask(rows, FULL, len(place)),
            }
    return found


warnings.filterwarnings("ignore")
packages = ("alpaca_eval", "numpy", "pandas", "patsy", "scikit-learn")
text = json.dumps(
    {
        "cases": drawn(),
        "recorded": recorded(Path(sys.argv[1])),
        "made_with": {
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
    },
    indent=1,
)
(HERE / "length_controlled.json").write_text(text + "\n")
