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

GGUF = r'''
import json, sys
from pathlib import Path
import gguf, numpy as np
folder, out = Path(sys.argv[1]), sys.argv[2]
conf = json.loads((folder / "config.json").read_text())
tok = json.loads((folder / "tokenizer.json").read_text())
w = gguf.GGUFWriter(out, "llama")
heads, groups = conf["num_attention_heads"], conf["num_key_value_heads"]
w.add_context_length(conf["max_position_embeddings"])
w.add_embedding_length(conf["hidden_size"])
w.add_block_count(conf["num_hidden_layers"])
w.add_feed_forward_length(conf["intermediate_size"])
w.add_head_count(heads)
w.add_head_count_kv(groups)
w.add_key_length(conf["head_dim"])
w.add_value_length(conf["head_dim"])
w.add_rope_dimension_count(conf["head_dim"])
w.add_rope_freq_base(conf["rope_theta"])
w.add_layer_norm_rms_eps(conf["rms_norm_eps"])
w.add_vocab_size(conf["vocab_size"])
w.add_file_type(gguf.LlamaFileType.ALL_F32)
names = {i: (t, gguf.TokenType.NORMAL) for t, i in tok["model"]["vocab"].items()}
for a in tok["added_tokens"]:
    names[a["id"]] = (a["content"], gguf.TokenType.CONTROL if a["special"] else gguf.TokenType.USER_DEFINED)
for i in range(conf["vocab_size"]):
    names.setdefault(i, (f"[unused{i}]", gguf.TokenType.UNUSED))
w.add_tokenizer_model("gpt2")
w.add_tokenizer_pre("gpt-2")
w.add_token_list([names[i][0] for i in range(conf["vocab_size"])])
w.add_token_types([names[i][1] for i in range(conf["vocab_size"])])
w.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in tok["model"]["merges"]])
w.add_eos_token_id(conf["eos_token_id"])
w.add_pad_token_id(conf["pad_token_id"])
w.add_add_bos_token(False)
w.add_chat_template((folder / "chat_template.jinja").read_text())

# safetensors' numpy side knows no bf16: read the bits, shift them into f32.
raw = (folder / "model.safetensors").read_bytes()
size = int.from_bytes(raw[:8], "little")
head = json.loads(raw[8 : 8 + size])
def tensor(name):
    at = head[name]
    lo, hi = (8 + size + x for x in at["data_offsets"])
    if at["dtype"] == "BF16":
        x = (np.frombuffer(raw[lo:hi], "<u2").astype("<u4") << 16).view("<f4")
    else:
        x = np.frombuffer(raw[lo:hi], {"F32": "<f4", "F16": "<f2"}[at["dtype"]]).astype("<f4")
    return x.reshape(at["shape"])
def paired(x, n):  # ggml turns neighbours where Hugging Face turns halves
    return np.ascontiguousarray(x.reshape(n, 2, -1, x.shape[1]).swapaxes(1, 2).reshape(x.shape))
w.add_tensor("token_embd.weight", tensor("model.embed_tokens.weight"))
w.add_tensor("output_norm.weight", tensor("model.norm.weight"))
if not conf["tie_word_embeddings"]:
    w.add_tensor("output.weight", tensor("lm_head.weight"))
for i in range(conf["num_hidden_layers"]):
    p, q = f"model.layers.{i}.", f"blk.{i}."
    for theirs, ours in {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
                         "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
                         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
                         "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
                         "post_attention_layernorm": "ffn_norm"}.items():
        x = tensor(p + theirs + ".weight")
        n = {"attn_q": heads, "attn_k": groups}.get(ours)
        w.add_tensor(q + ours + ".weight", paired(x, n) if n else x)
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_tensors_to_file()
w.close()
'''
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
        subprocess.run([args.python, "-c", GGUF, folder, file], check=True)
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
