"""A PPO iteration beside TRL's on the same cores, alternated: 128 rollouts of 64 tokens, 4 epochs of 4 steps.

    cargo build --release
    pip install --no-deps --target trl-ppo trl==1.10.0     # the PPO trainer is gone from later releases
    PYTHONPATH=trl-ppo python benchmarks/engine/ppo.py target/release/rlaif [--rounds 2]

Needs torch, transformers, accelerate and datasets. Policy and reward model are 8.3 M-parameter Llamas with
random weights, f32 on both sides, prompts of about 32 tokens. An iteration samples, scores, takes the
log-probabilities of policy and reference and updates 16 times. TRL trains a value model of the policy's
size beside it; rlaif a value head on the policy, which is part of the difference. Time: TRL's between two
ends of an update, rlaif's a run of three iterations less a run of one, halved.
"""
import argparse, json, os, shutil, statistics, subprocess, sys, tempfile, time

p = argparse.ArgumentParser()
p.add_argument("rlaif")
p.add_argument("--rounds", type=int, default=2)
p.add_argument("--threads", type=int, default=2)
p.add_argument("--side", help=argparse.SUPPRESS)
a = p.parse_args()
WORDS = "the a of and to in is it that was he for on are as with his they at be this have from or one had by".split()
PROMPTS = [" ".join(WORDS[(i * 7 + j * j * (i + 3)) % len(WORDS)] for j in range(32)) for i in range(256)]

def make(folder):
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast
    torch.manual_seed(0)
    vocab = {t: i for i, t in enumerate(["<unk>", "<s>", "</s>"] + WORDS)}
    vocab.update({f"w{i}": i for i in range(len(vocab), 4096)})
    t = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    t.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    shape = dict(vocab_size=4096, hidden_size=288, intermediate_size=768, num_hidden_layers=6, num_attention_heads=6,
                 num_key_value_heads=6, max_position_embeddings=512, initializer_range=0.06, eos_token_id=2, bos_token_id=1,
                 pad_token_id=0)
    for name, m in [("policy", LlamaForCausalLM(LlamaConfig(tie_word_embeddings=True, **shape))),
                    ("reward", LlamaForSequenceClassification(LlamaConfig(num_labels=1, **shape)))]:
        m.save_pretrained(f"{folder}/{name}")
        PreTrainedTokenizerFast(tokenizer_object=t, eos_token="</s>", pad_token="<unk>", unk_token="<unk>",
                                padding_side="left").save_pretrained(f"{folder}/{name}")
    with open(f"{folder}/prompts.jsonl", "w") as f:
        for x in PROMPTS:
            f.write(json.dumps({"prompt": x}) + "\n")

def theirs(folder):
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer
    torch.set_num_threads(a.threads)
    tok = AutoTokenizer.from_pretrained(f"{folder}/policy")
    policy = lambda: AutoModelForCausalLM.from_pretrained(f"{folder}/policy", dtype=torch.float32)
    scalar = lambda: AutoModelForSequenceClassification.from_pretrained(f"{folder}/reward", dtype=torch.float32, num_labels=1)
    ends = []
    class Clock(TrainerCallback):
        def on_step_end(self, *args, **kw):
            ends.append(time.perf_counter())
    config = PPOConfig(output_dir=f"{folder}/trl", per_device_train_batch_size=128, num_mini_batches=4, num_ppo_epochs=4,
                       total_episodes=128 * 3, response_length=64, local_rollout_forward_batch_size=64, temperature=0.7,
                       num_sample_generations=0, gradient_checkpointing=False, bf16=False, use_cpu=True, report_to="none",
                       save_strategy="no", logging_steps=1000, learning_rate=1e-5, disable_tqdm=True)
    data = Dataset.from_list([{"input_ids": tok(x)["input_ids"]} for x in PROMPTS])
    trainer = PPOTrainer(config, tok, policy(), policy(), scalar(), data, scalar(), eval_dataset=data.select(range(8)), callbacks=[Clock()])
    trainer.train()
    print(json.dumps(dict(secs=[y - x for x, y in zip(ends, ends[1:])], peak_kib=int(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1]))))

def ours(folder):
    wall = {}
    for n in (1, 3):
        out = f"{folder}/ours"
        shutil.rmtree(out, ignore_errors=True)
        cmd = ["/usr/bin/env", "time", "-f", "%M", a.rlaif, "ppo", f"{folder}/prompts.jsonl", "--base", f"{folder}/policy", "--reward",
               f"{folder}/reward", "--out", out, "--total-episodes", str(128 * n), "--batch-size", "128", "--num-ppo-epochs", "4",
               "--num-mini-batches", "4", "--response-length", "64", "--temperature", "0.7", "--save-secs", "9999", "--threads",
               str(a.threads), "--json"]
        cmd = cmd[4:] if not shutil.which("time") else cmd
        done = subprocess.run(cmd, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        wall[n] = json.loads(done.stdout)["wall_secs"]
        last = done.stderr.strip().splitlines()[-1]
        peak = int(last) if last.isdigit() else 0
    return dict(secs=[(wall[3] - wall[1]) / 2], peak_kib=peak)

if a.side:
    theirs(a.side)
    sys.exit()
folder = tempfile.mkdtemp()
make(folder)
env = dict(os.environ, OMP_NUM_THREADS=str(a.threads), TOKENIZERS_PARALLELISM="false")
got = {"ours": [], "trl": []}
for _ in range(a.rounds):
    got["ours"].append(ours(folder))
    run = subprocess.run([sys.executable, __file__, a.rlaif, "--threads", str(a.threads), "--side", folder], env=env, stdout=subprocess.PIPE, text=True)
    if run.returncode:
        sys.exit("TRL failed")
    got["trl"].append(json.loads(run.stdout.splitlines()[-1]))
med = {s: statistics.median(t for r in rs for t in r["secs"]) for s, rs in got.items()}
print(json.dumps(dict(task="ppo", seconds={s: round(x, 3) for s, x in med.items()}, all={s: [r["secs"] for r in rs] for s, rs in got.items()},
                      peak_mib={s: max(r["peak_kib"] for r in rs) // 1024 for s, rs in got.items()}, ratio=round(med["trl"] / med["ours"], 2))))
