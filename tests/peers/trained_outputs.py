"""Holds what a run trained against transformers: log-probabilities, scores and greedy tokens.

    python tests/peers/trained_outputs.py QUICKSTART --rlaif rlaif     # the folder of `rlaif quickstart`

Needs requirements.txt's torch and transformers. Prints one JSON line; exit code 1 where a text
differs by more than 1e-3 or a greedy token is another one.
"""
import argparse, json, subprocess, sys, tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

torch.set_num_threads(1)
parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("--rlaif", default="rlaif")
args = parser.parse_args()
run = args.folder / "run"


def rows(verb, model, source, *more):
    with tempfile.TemporaryDirectory() as made:
        out = Path(made) / "out.jsonl"
        command = [args.rlaif, verb, model, source, "--out", out, *more]
        subprocess.run([str(c) for c in command], check=True, stderr=subprocess.DEVNULL)
        return [json.loads(line) for line in out.open()]


found, texts = {}, run / "export" / "trl.jsonl"
with torch.no_grad():
    for name in ("sft", "ppo"):
        folder = run / name
        tok = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        begin = lambda row: tok.apply_chat_template(
            row["prompt"], add_generation_prompt=True, tokenize=True, return_dict=False)
        worst = 0.0
        for row in rows("score", folder, texts, "--limit", "25"):
            for ids, ours in zip(row["completion_ids"], row["logprob"]):
                start = begin(row)
                logits = model(torch.tensor([start + ids])).logits[0, len(start) - 1 : -1]
                theirs = logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None]).sum().item()
                worst = max(worst, abs(theirs - ours))
        same = total = 0
        sampled = rows("sample", folder, args.folder / "held_out.jsonl", "--limit", "50",
                       "--temperature", "0", "--max-new-tokens", "64")
        for row in sampled:
            start = begin(row)
            got = model.generate(torch.tensor([start]), do_sample=False, max_new_tokens=64,
                                 pad_token_id=tok.pad_token_id)[0, len(start):].tolist()
            total += 1
            same += got == row["completion_ids"][0]
        found[name] = {"logprob_difference": worst, "greedy_equal": same, "prompts": total}
    folder = run / "reward"
    tok = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    worst = 0.0
    for row in rows("score", folder, texts, "--limit", "25"):
        for key, ours in zip(("chosen", "rejected"), row["scores"]):
            ids = tok.apply_chat_template(row["prompt"] + row[key], tokenize=True, return_dict=False)
            worst = max(worst, abs(model(torch.tensor([ids])).logits[0, 0].item() - ours))
    found["reward"] = {"score_difference": worst}
worst = max(v for part in found.values() for k, v in part.items() if k.endswith("difference"))
ok = worst <= 1e-3 and all(p["greedy_equal"] == p["prompts"] for p in found.values() if "prompts" in p)
print(json.dumps({"ok": ok, **found}))
sys.exit(0 if ok else 1)
