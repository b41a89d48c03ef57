"""Win rates and standard errors from the `preference` column that annotators left, for
tests/evals.rs: what a judge that repeats those preferences must come to.

    python crates/rlaif/tests/evals/alpaca.py DATA_FOLDER      # standard library alone

Writes alpaca.json beside it: three models, both annotators. These are the prompts of the data
folder, about 357 of the leaderboard's 805, so its figures are others.
"""

import gzip
import json
import math
import sys
from pathlib import Path

ANNOTATORS = {
    "gpt4": "gpt4_preferences_dev.jsonl.gz",
    "weighted_gpt4_turbo": "weighted_gpt4_turbo_preferences_dev.jsonl.gz",
}
MODELS = ["alpaca-7b", "gpt-3.5-turbo-1106", "wizardlm-13b"]

out = {}
for annotator, name in ANNOTATORS.items():
    with gzip.open(Path(sys.argv[1]) / "alpaca_eval" / name, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    for model in MODELS:
        recorded = [r["preference"] for r in rows if r["generator_2"] == model]
        # 0 is an older mark of a draw; 1 is the reference (output_1), 2 the model.
        won = [0.5 if p == 0 else p - 1 for p in recorded if p is not None]
        n = len(won)
        mean = math.fsum(won) / n
        variance = math.fsum((w - mean) ** 2 for w in won) / (n - 1)
        out[f"{annotator}/{model}"] = {
            "n": n,
            "win_rate": 100 * mean,
            "standard_error": 100 * math.sqrt(variance / n),
        }
text = json.dumps(out, indent=1)
(Path(__file__).parent / "alpaca.json").write_text(text + "\n")
