"""Holds the judge in memory against the same weights behind a server that was not written here.

    python tests/peers/critic_served.py FOLDER PAIRS --rlaif rlaif \\
        --server llama|transformers --python OTHER/bin/python [--limit 500]

FOLDER is a small Llama as `rlaif` writes it, such as the embedded critic (`models/critic` of a
quickstart). `llama` needs llama-cpp-python[server]==0.3.36, gguf==0.19.0 and safetensors==0.8.0 in
the environment of `--python`: the folder is written as a GGUF (f32, its own chat template) and
served. `transformers` needs transformers==5.24.0, torch, fastapi, uvicorn and openai there; it gives
no log-probabilities, so that only the greedy choice is compared.

`rlaif judge` labels PAIRS twice, in memory and over HTTP, with the same question in both orders.
Prints one JSON line. Exit code 1 where a choice differs, a judgment failed, or a log-probability of
a choice is off by more than 0.01.
"""
import argparse, json, math, subprocess, sys, tempfile, time, urllib.error, urllib.request
from pathlib import Path

SERVE = ("import sys, torch; torch.set_num_threads(1); "
         "from transformers.cli.transformers import main; sys.exit(main())")

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("pairs", type=Path)
parser.add_argument("--rlaif", default="rlaif")
parser.add_argument("--server", choices=("llama", "transformers"), required=True)
parser.add_argument("--python", default=sys.executable)
parser.add_argument("--port", type=int, default=8113)
parser.add_argument("--limit", type=int, default=500)
args = parser.parse_args()
folder, base = args.folder.resolve(), f"http://127.0.0.1:{args.port}"


def judged(critic, out):
    command = [args.rlaif, "judge", args.pairs, "--limit", args.limit, "--constitution", "default.toml",
               "--template", "pair_brief", "--principles", "whole", "--critic", critic, "--out", out]
    start = time.monotonic()
    subprocess.run([str(c) for c in command], check=True, stderr=subprocess.DEVNULL)
    taken = time.monotonic() - start
    return {r["rlaif_id"]: r for r in map(json.loads, out.open())}, taken


def logs(order):
    mass = 1 - order["off_choice_mass"]
    return [math.log(max(p * mass, 1e-30)) for p in (order["p_first"], 1 - order["p_first"])]


with tempfile.TemporaryDirectory() as made:
    made = Path(made)
    ours, quick = judged(folder, made / "memory.jsonl")
    if args.server == "llama":
        file, name = made / "critic.gguf", "critic"
        subprocess.run([args.python, Path(__file__).with_name("as_gguf.py"), folder, file], check=True)
        command = [args.python, "-m", "llama_cpp.server", "--model", file, "--model_alias", name,
                   "--port", args.port, "--n_ctx", "512", "--logits_all", "true", "--n_threads", "1",
                   "--n_threads_batch", "1", "--interrupt_requests", "false", "--verbose", "false"]
    else:
        name = str(folder)
        command = [args.python, "-c", SERVE, "serve", folder, "--device", "cpu", "--dtype", "float32",
                   "--port", args.port]
    with (made / "server.log").open("w") as log:
        server = subprocess.Popen([str(c) for c in command], stdout=log, stderr=log)
        try:
            for _ in range(120):
                try:
                    urllib.request.urlopen(base + "/v1/models", timeout=5).read()
                    break
                except (urllib.error.URLError, OSError):
                    if server.poll() is not None:
                        sys.exit((made / "server.log").read_text())
                    time.sleep(1)
            theirs, slow = judged(f"{base}/v1#{name}", made / "served.jsonl")
        finally:
            server.terminate()
            server.wait()

same = total = failed = 0
evidence, worst, differ = {}, 0.0, []
for key, mine in ours.items():
    served = {o["order"]: o for o in theirs[key]["orders"]} if key in theirs else {}
    for order in mine["orders"]:
        total += 1
        other = served.get(order["order"])
        if other is None or other["p_first"] is None:
            failed += 1
            continue
        kind = other["evidence"]["kind"]
        evidence[kind] = evidence.get(kind, 0) + 1
        agree = (order["p_first"] > 0.5) == (other["p_first"] > 0.5)
        same += agree
        if not agree:
            differ.append([key, order["order"], order["p_first"], other["p_first"]])
        if args.server == "llama":
            worst = max([worst] + [abs(a - b) for a, b in zip(logs(order), logs(other))])
found = {"server": args.server, "pairs": len(ours), "orders": total, "same_choice": same,
         "failed": failed, "evidence": evidence, "seconds": round(slow, 1),
         "seconds_in_memory": round(quick, 1), "differ": differ[:5]}
if args.server == "llama":
    found["logprob_difference"] = worst
print(json.dumps(found))
sys.exit(0 if same == total and worst <= 0.01 else 1)
