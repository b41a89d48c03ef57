"""The engine beside PyTorch on the same cores, alternated; medians over rounds, peak memory.

    cargo build --release -p rlaif-engine --example bench
    python benchmarks/engine/run.py target/release/examples/bench [--rounds 3] [--sides eager,compile,bf16]
        [--tasks train,decode64,decode1,stops,judge] [--model DIR] [--scale 1] [--ceilings]

Needs torch and transformers. The model is an 8.3 M-parameter Llama with random weights (vocabulary 4096,
width 288, 6 layers, 6 heads, hidden 768) or a folder; f32 on both sides, but for the side `bf16`, which
is PyTorch's autocast. `--scale 0.25` takes a quarter of the rows of every batch.

train: 8 x 256 tokens, AdamW, gradients clipped to 1. decode64, decode1: greedy, prompts of 16 to 63
tokens, 128 new ones. stops: as decode64, but each row ends at a length of its own, geometric with mean
40, at most 128; `generate` goes on until the last has ended. judge: 1,000 questions of 100 to 199 tokens
behind the same 300, the log-probabilities of two answers; PyTorch takes batches of 16 in order of length
and computes logits for each row's last token only. `--ceilings` prints the machine's GEMM rate and memory
bandwidth as PyTorch reaches them, and the shortest time that decoding could take by either.
"""
import argparse, json, math, os, statistics, subprocess, sys, tempfile

p = argparse.ArgumentParser()
p.add_argument("bench")
p.add_argument("--rounds", type=int, default=3)
p.add_argument("--threads", type=int, default=2)
p.add_argument("--sides", default="eager")
p.add_argument("--tasks", default="train,decode64,decode1")
p.add_argument("--model", help="a folder, instead of the 8.3 M model")
p.add_argument("--scale", type=float, default=1.0)
p.add_argument("--repeats", type=int, default=0, help="in each process; 0: the task's own")
p.add_argument("--ceilings", action="store_true")
p.add_argument("--side", help=argparse.SUPPRESS)
a = p.parse_args()

# kind, rows, length, repetitions in a process
TASKS = {"train": ("train", 8, 256, 6), "decode64": ("decode", 64, 128, 3), "decode1": ("decode", 1, 128, 4),
         "stops": ("stops", 64, 128, 3), "judge": ("judge", 1000, 300, 2)}
TASKS = {t: (k, max(1, round(b * a.scale)), n, a.repeats or r) for t, (k, b, n, r) in TASKS.items()}

def peak_kib():
    # Not ru_maxrss, which begins at what the parent held.
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1])

def token(i, vocab):
    return (i * 7919 + i // 13) % (vocab - 3) + 3

def torch_side(task, folder, how):
    import time, torch
    from transformers import AutoModelForCausalLM, StoppingCriteria
    torch.set_num_threads(a.threads)
    kind, batch, length, repeats = TASKS[task]
    m = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    V = m.config.vocab_size
    times, check = [], []
    cast = torch.autocast("cpu", torch.bfloat16, enabled=how == "bf16")
    if kind == "train":
        m.train()
        opt = torch.optim.AdamW(m.parameters(), lr=1e-3, weight_decay=0.0)
        ids = torch.tensor([[token(b * length + i, V) for i in range(length)] for b in range(batch)])
        f = torch.compile(m) if how == "compile" else m
        for _ in range(repeats + (2 if how == "compile" else 0)):
            t = time.perf_counter()
            with cast:
                loss = f(input_ids=ids, labels=ids, use_cache=False).loss
            check.append(loss.item())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(m.parameters(), 1.0)
            opt.step()
            opt.zero_grad()
            times.append(time.perf_counter() - t)
    elif kind == "judge":
        m.eval()
        shared = [token(i, V) for i in range(length)]
        prompts = [shared + [token(b * 100 + i + 7, V) for i in range(100 + b * 37 % 100)] for b in range(batch)]
        order = sorted(range(batch), key=lambda b: len(prompts[b]))
        for _ in range(repeats):
            t = time.perf_counter()
            check = [0.0] * batch
            with torch.no_grad(), cast:
                for at in range(0, batch, 16):
                    part = order[at:at + 16]
                    longest = max(len(prompts[b]) for b in part)
                    ids = torch.tensor([prompts[b] + [0] * (longest - len(prompts[b])) for b in part])
                    last = torch.tensor([len(prompts[b]) - 1 for b in part])
                    h = m.model(ids, attention_mask=(torch.arange(longest)[None] <= last[:, None]).long(), use_cache=False)[0]
                    lp = m.lm_head(h[torch.arange(len(part)), last]).float().log_softmax(-1)
                    for b, x in zip(part, (lp[:, 5] - lp[:, 6]).tolist()):
                        check[b] = x
            times.append(time.perf_counter() - t)
    else:
        m.eval()
        prompts = [[token(b * 100 + i + 7, V) for i in range(16 + b * 37 % 48)] for b in range(batch)]
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(x)) + x for x in prompts])
        mask = torch.tensor([[0] * (longest - len(x)) + [1] * len(x) for x in prompts])
        most = torch.tensor([min(length, max(1, math.ceil(math.log(1 - b * 0.618033988749895 % 1) / math.log(1 - 1 / 40))))
                             if kind == "stops" else length for b in range(batch)])
        class Ends(StoppingCriteria):
            def __call__(self, ids, scores, **kw):
                return ids.shape[1] - longest >= most
        more = dict(stopping_criteria=[Ends()]) if kind == "stops" else dict(min_new_tokens=length)
        for _ in range(repeats):
            t = time.perf_counter()
            with torch.no_grad(), cast:
                o = m.generate(ids, attention_mask=mask, max_new_tokens=length, do_sample=False, eos_token_id=None,
                               pad_token_id=0, **more)
            times.append(time.perf_counter() - t)
            check = [o[b, longest:longest + most[b]].sum().float().item() for b in range(batch)]
    print(json.dumps(dict(times=times, check=check, peak_kib=peak_kib())))

def ceilings(folder):
    import time, torch
    torch.set_num_threads(a.threads)
    c = json.load(open(f"{folder}/config.json"))
    d, f, hd = c["hidden_size"], c["intermediate_size"], c["head_dim"] if c.get("head_dim") else c["hidden_size"] // c["num_attention_heads"]
    q, kv, layers = c["num_attention_heads"] * hd, c["num_key_value_heads"] * hd, c["num_hidden_layers"]
    weights = layers * (2 * d * q + 2 * d * kv + 3 * d * f) + c["vocab_size"] * d
    def rate(work, run):
        run()
        best = 0.0
        for _ in range(5):
            t = time.perf_counter(); run(); best = max(best, work / (time.perf_counter() - t))
        return best
    x, w = torch.randn(2048, 2048), torch.randn(2048, 2048)
    gemm = rate(2 * 2048**3, lambda: x @ w.T)
    big = torch.ones(1 << 28)
    read = rate(4 * big.numel(), lambda: big.sum())
    out = dict(gemm_gflops=round(gemm / 1e9, 1), read_gb_s=round(read / 1e9, 1))
    for task in ("decode64", "decode1"):
        _, rows, new, _ = TASKS[task]
        prompts = [16 + b * 37 % 48 for b in range(rows)]
        tokens = sum(prompts) + rows * (new - 1)
        # Keys and values read at each new token, weights once a pass.
        cache = sum(8 * layers * kv * (n + i) for n in prompts for i in range(new))
        out[task] = dict(gemm_secs=round(2 * weights * tokens / gemm, 3),
                         read_secs=round((4 * weights * new + cache) / read, 3))
    print(json.dumps(out), flush=True)

if a.side:
    torch_side(*a.side.split(","))
    sys.exit()

folder = a.model or tempfile.mkdtemp()
if not a.model:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=4096, hidden_size=288, intermediate_size=768, num_hidden_layers=6,
        num_attention_heads=6, num_key_value_heads=6, tie_word_embeddings=True, max_position_embeddings=512,
        initializer_range=0.06)).save_pretrained(folder)
if a.ceilings:
    ceilings(folder)
env = dict(os.environ, RAYON_NUM_THREADS=str(a.threads), OMP_NUM_THREADS=str(a.threads), TOKENIZERS_PARALLELISM="false")
run = lambda cmd: json.loads(subprocess.run(cmd, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
for task in filter(None, a.tasks.split(",")):
    kind, batch, length, repeats = TASKS[task]
    sides = {"ours": [a.bench, kind, folder, str(batch), str(length), str(repeats)]}
    for how in a.sides.split(","):
        if kind == "train" or how != "compile":
            sides[how] = [sys.executable, __file__, a.bench, "--threads", str(a.threads), "--scale", str(a.scale),
                          "--repeats", str(a.repeats), "--side", f"{task},{folder},{how}"]
    got = {s: [] for s in sides}
    for _ in range(a.rounds):
        for side, cmd in sides.items():
            got[side].append(run(cmd))
    # The first repetition warms up (compilation: the first three).
    med = {s: statistics.median(t for r in rs for t in r["times"][3 if s == "compile" else 1:]) for s, rs in got.items()}
    peak = {s: max(r["peak_kib"] for r in rs) // 1024 for s, rs in got.items()}
    apart = {s: max(abs(x - y) for x, y in zip(got["ours"][0]["check"], rs[0]["check"])) for s, rs in got.items() if s != "ours"}
    print(json.dumps(dict(task=task, rows=batch, seconds={s: round(x, 4) for s, x in med.items()}, peak_mib=peak, largest_difference=apart,
                          ratio={s: round(x / med["ours"], 2) for s, x in med.items() if s != "ours"})), flush=True)
