"""Judge scoring and greedy decoding beside llama.cpp on the same cores, alternated.

    cargo build --release -p rlaif-engine --example bench
    python benchmarks/engine/llamacpp.py target/release/examples/bench FOLDER [--rounds 2] [--rows 100]

Needs xllamacpp (llama.cpp's own server from a wheel) and gguf. FOLDER is a Llama with a byte-level
tokenizer, such as SmolLM2; it is written as an f32 GGUF, so that both sides compute with the same
weights. The rows are those of run.py: `judge` asks ROWS questions behind the same 300 tokens for the
log-probabilities of two answers, `decode` continues 64 prompts by 128 tokens. llama.cpp's server runs in
the process, eight requests at a time, with its prompt cache on. Its wheel is built for any x86-64 with
AVX2: it knows no AVX-512, which is part of the difference on a machine that has it.
"""
import argparse, json, os, statistics, subprocess, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

p = argparse.ArgumentParser()
p.add_argument("bench")
p.add_argument("folder", type=Path)
p.add_argument("--rounds", type=int, default=2)
p.add_argument("--rows", type=int, default=100)
p.add_argument("--threads", type=int, default=2)
p.add_argument("--tasks", default="judge,decode")
p.add_argument("--side", help=argparse.SUPPRESS)
a = p.parse_args()
V = json.loads((a.folder / "config.json").read_text())["vocab_size"]
SLOTS = 8
# rows, length, repetitions in a process, the first of which warms up
TASKS = {"judge": (a.rows, 300, 2), "decode": (64, 128, 2)}


def token(i):
    return (i * 7919 + i // 13) % (V - 3) + 3


def theirs(task, file):
    import xllamacpp as x
    rows, length, repeats = TASKS[task]
    c = x.CommonParams()
    c.model.path = file
    c.n_ctx, c.n_parallel, c.n_batch, c.n_ubatch = SLOTS * 640, SLOTS, 2048, 512
    c.cpuparams.n_threads = c.cpuparams_batch.n_threads = a.threads
    # Prompts kept beside the slots would make the second repetition a look-up.
    c.cache_prompt, c.cache_ram_mib = True, 0
    c.verbosity = 0
    server = x.Server(c)
    if task == "judge":
        shared = [token(i) for i in range(length)]
        prompts = [shared + [token(b * 100 + i + 7) for i in range(100 + b * 37 % 100)] for b in range(rows)]
        ask = dict(n_predict=1, n_probs=2)
    else:
        prompts = [[token(b * 100 + i + 7) for i in range(16 + b * 37 % 48)] for b in range(rows)]
        ask = dict(n_predict=length, ignore_eos=True)

    def one(tokens):
        r = server.handle_completions(dict(prompt=tokens, temperature=0.0, cache_prompt=True, **ask))
        if "choices" not in r:
            raise SystemExit(f"llama.cpp answered: {json.dumps(r)[:300]}")
        return r["usage"]["completion_tokens"]

    times = []
    for _ in range(repeats):
        t = time.perf_counter()
        with ThreadPoolExecutor(SLOTS) as pool:
            got = list(pool.map(one, prompts))
        times.append(time.perf_counter() - t)
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return dict(times=times, tokens=sum(got), peak_kib=int(peak.split()[1]))


if a.side:
    task, file = a.side.split(",")
    # The server writes to standard output too.
    print("\n" + json.dumps(theirs(task, file)), flush=True)
    os._exit(0)

with tempfile.TemporaryDirectory() as made:
    file = f"{made}/model.gguf"
    subprocess.run([sys.executable, Path(__file__).parents[2] / "tests/peers/as_gguf.py", a.folder, file], check=True)
    env = dict(os.environ, RAYON_NUM_THREADS=str(a.threads))
    for task in a.tasks.split(","):
        rows, length, repeats = TASKS[task]
        sides = {"ours": [a.bench, task, a.folder, rows, length, repeats],
                 "llama.cpp": [sys.executable, __file__, a.bench, a.folder, "--rows", a.rows, "--threads", a.threads,
                               "--side", f"{task},{file}"]}
        got = {s: [] for s in sides}
        for _ in range(a.rounds):
            for side, command in sides.items():
                done = subprocess.run([str(c) for c in command], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                if done.returncode:
                    sys.exit(done.stderr[-3000:])
                got[side].append(json.loads(done.stdout.splitlines()[-1]))
        med = {s: statistics.median(t for r in rs for t in r["times"][1:]) for s, rs in got.items()}
        peak = {s: max(r["peak_kib"] for r in rs) // 1024 for s, rs in got.items()}
        out = dict(task=task, rows=rows, seconds={s: round(t, 2) for s, t in med.items()}, peak_mib=peak,
                   ratio=round(med["llama.cpp"] / med["ours"], 2))
        # What it wrote, beside the rows times the length that were asked for.
        out["tokens"] = got["llama.cpp"][0]["tokens"]
        print(json.dumps(out), flush=True)
