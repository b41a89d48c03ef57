"""The engine beside PyTorch on the same cores, alternated; medians over rounds, peak memory.

    cargo build --release -p rlaif-engine --example bench
    python benchmarks/engine/run.py target/release/examples/bench [--rounds 3] [--compile] [--tasks train,decode64,decode1]

Needs torch and transformers. The model is an 8.3 M-parameter Llama with random weights (vocabulary 4096,
width 288, 6 layers, 6 heads, hidden 768), f32 on both sides. Train: batch 8 × 256, AdamW, gradients
clipped to 1. Decode: greedy, prompts of 16 to 63 tokens, 128 new tokens.
"""
import argparse, json, os, statistics, subprocess, sys, tempfile

p = argparse.ArgumentParser()
p.add_argument("bench")
p.add_argument("--rounds", type=int, default=3)
p.add_argument("--threads", type=int, default=2)
p.add_argument("--compile", action="store_true")
p.add_argument("--tasks", default="train,decode64,decode1")
p.add_argument("--model", help="a folder, instead of the 8.3 M model")
p.add_argument("--side", help=argparse.SUPPRESS)
a = p.parse_args()

TASKS = {"train": ("train", 8, 256, 6), "decode64": ("decode", 64, 128, 2), "decode1": ("decode", 1, 128, 4)}

def token(i, vocab):
    return (i * 7919 + i // 13) % (vocab - 3) + 3

def torch_side(task, folder, compiled):
    import time, resource, torch
    from transformers import AutoModelForCausalLM
    torch.set_num_threads(a.threads)
    kind, batch, length, repeats = TASKS[task]
    m = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    V = m.config.vocab_size
    times, check = [], []
    if kind == "train":
        m.train()
        opt = torch.optim.AdamW(m.parameters(), lr=1e-3, weight_decay=0.0)
        ids = torch.tensor([[token(b * length + i, V) for i in range(length)] for b in range(batch)])
        f = torch.compile(m) if compiled else m
        for _ in range(repeats + (2 if compiled else 0)):
            t = time.perf_counter()
            loss = f(input_ids=ids, labels=ids, use_cache=False).loss
            check.append(loss.item())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(m.parameters(), 1.0)
            opt.step()
            opt.zero_grad()
            times.append(time.perf_counter() - t)
    else:
        m.eval()
        prompts = [[token(b * 100 + i, V) for i in range(16 + b * 37 % 48)] for b in range(batch)]
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(x)) + x for x in prompts])
        mask = torch.tensor([[0] * (longest - len(x)) + [1] * len(x) for x in prompts])
        for _ in range(repeats):
            t = time.perf_counter()
            with torch.no_grad():
                o = m.generate(ids, attention_mask=mask, max_new_tokens=length, min_new_tokens=length,
                               do_sample=False, eos_token_id=None, pad_token_id=0)
            times.append(time.perf_counter() - t)
            check = o[:, longest:].sum(1).float().tolist()
    print(json.dumps(dict(times=times, check=check, peak_kib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)))

if a.side:
    task, folder, compiled = a.side.split(",")
    torch_side(task, folder, compiled == "1")
    sys.exit()

folder = a.model or tempfile.mkdtemp()
if not a.model:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=4096, hidden_size=288, intermediate_size=768, num_hidden_layers=6,
        num_attention_heads=6, num_key_value_heads=6, tie_word_embeddings=True, max_position_embeddings=512,
        initializer_range=0.06)).save_pretrained(folder)
env = dict(os.environ, RAYON_NUM_THREADS=str(a.threads), OMP_NUM_THREADS=str(a.threads), TOKENIZERS_PARALLELISM="false")
run = lambda cmd: json.loads(subprocess.run(cmd, env=env, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
for task in a.tasks.split(","):
    kind, batch, length, repeats = TASKS[task]
    sides = {"ours": [a.bench, kind, folder, str(batch), str(length), str(repeats)],
             "torch": [sys.executable, __file__, a.bench, "--threads", str(a.threads), "--side", f"{task},{folder},0"]}
    if a.compile and kind == "train":
        sides["torch.compile"] = sides["torch"][:-1] + [f"{task},{folder},1"]
    got = {s: [] for s in sides}
    for _ in range(a.rounds):
        for side, cmd in sides.items():
            got[side].append(run(cmd))
    # The first repetition warms up (compilation: the first three).
    med = {s: statistics.median(t for r in rs for t in r["times"][3 if s == "torch.compile" else 1:]) for s, rs in got.items()}
    peak = {s: max(r["peak_kib"] for r in rs) // 1024 for s, rs in got.items()}
    same = got["ours"][0]["check"] == got["torch"][0]["check"] if kind == "decode" else \
        max(abs(x - y) for x, y in zip(got["ours"][0]["check"], got["torch"][0]["check"])) < 1e-3
    print(json.dumps(dict(task=task, seconds={s: round(x, 4) for s, x in med.items()}, peak_mib=peak, agrees=same,
                          ratio={s: round(x / med["ours"], 2) for s, x in med.items() if s != "ours"})), flush=True)
