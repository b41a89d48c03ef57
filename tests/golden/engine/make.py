"""Reference vectors of the engine from PyTorch, transformers and PEFT on small random weights.

    python tests/golden/engine/make.py crates/rlaif-engine/tests/golden

Writes small checkpoints (Llama with grouped queries and Llama 3 rope scaling, tied and not, f32 and
bf16, sharded; a reward model; a PEFT adapter) and golden.json with logits, greedy tokens, scores,
gradients and the losses of 20 AdamW steps. torch 2.15, transformers 5.24, peft 0.19.
"""
import json, os, sys
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

out = sys.argv[1]
os.makedirs(out, exist_ok=True)
torch.manual_seed(0)
torch.set_num_threads(1)
rnd = lambda t: [round(x, 6) for x in t.detach().float().flatten().tolist()]
G = {}

def config(**kw):
    base = dict(vocab_size=83, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
                rms_norm_eps=1e-5, eos_token_id=2, bos_token_id=1, pad_token_id=0,
                initializer_range=0.25, rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    base.update(kw)
    return LlamaConfig(**base)

def jitter(m):
    # Norm weights that are not all one, so that a missing weight shows.
    for n, p in m.named_parameters():
        if "norm" in n:
            p.data += 0.2 * torch.randn_like(p)

llama3 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
ids = torch.randint(3, 83, (1, 60), generator=torch.Generator().manual_seed(1))
G["ids"] = ids[0].tolist()
for name, kw, dtype, shard in [
    ("tied", dict(tie_word_embeddings=True), torch.float32, None),
    ("llama3", dict(rope_parameters=llama3, head_dim=12), torch.float32, "20KB"),
    ("bf16", dict(), torch.bfloat16, None),
]:
    m = LlamaForCausalLM(config(**kw)).eval()
    jitter(m)
    m = m.to(dtype)
    m.save_pretrained(f"{out}/{name}", **({"max_shard_size": shard} if shard else {}))
    # Read back: converting the model in memory would have rounded its rotary frequencies too.
    m = LlamaForCausalLM.from_pretrained(f"{out}/{name}", dtype=torch.float32).eval()
    with torch.no_grad():
        logits = m(ids).logits[0]
        greedy = m.generate(ids[:, :8], max_new_tokens=128, do_sample=False, eos_token_id=None, pad_token_id=0)
    G[name] = dict(logits=rnd(logits[[0, 7, 31, 59]]), greedy=greedy[0, 8:].tolist())
    if name == "tied":
        # Gradients of the mean NLL of tokens 10.. and the losses of 20 AdamW steps.
        def nll():
            lp = m(ids).logits[0, :-1].log_softmax(-1)
            return -lp[torch.arange(59), ids[0, 1:]][9:].mean()
        loss = nll()
        loss.backward()
        G["grads"] = {n: dict(norm=p.grad.norm().item(), first=rnd(p.grad.flatten()[:8]))
                      for n, p in m.named_parameters()}
        opt = torch.optim.AdamW(m.parameters(), lr=3e-3, weight_decay=0.0)
        opt.zero_grad()
        losses = []
        for _ in range(20):
            loss = nll()
            losses.append(loss.item())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(m.parameters(), 1.0)
            opt.step()
            opt.zero_grad()
        G["adamw"] = losses

r = LlamaForSequenceClassification(config(num_labels=1)).eval()
jitter(r)
r.save_pretrained(f"{out}/reward")
with torch.no_grad():
    G["scores"] = [r(ids[:, :n]).logits[0, 0].item() for n in (5, 33, 60)]

from peft import LoraConfig, PeftModel, get_peft_model
base = LlamaForCausalLM.from_pretrained(f"{out}/tied", dtype=torch.float32)
p = get_peft_model(base, LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM"))
for n, w in p.named_parameters():
    if "lora_B" in n:
        w.data = 0.1 * torch.randn_like(w)
p.save_pretrained(f"{out}/adapter")
with torch.no_grad():
    G["lora"] = rnd(p.eval()(ids).logits[0, [0, 59]])
for root, _, files in os.walk(out):
    for f in files:
        if f == "README.md":
            os.remove(os.path.join(root, f))
json.dump(G, open(f"{out}/golden.json", "w"))
