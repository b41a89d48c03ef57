"""Reference vectors of the losses: TRL's formulae in PyTorch, gradients by autograd.

    python tests/golden/train/make.py > crates/rlaif-train/src/golden.json

Sources: trl/trainer/reward_trainer.py (compute_loss), trl/trainer/dpo_trainer.py (dpo_loss),
trl/experimental/ppo/ppo_trainer.py (train), trl/trainer/rloo_trainer.py (_generate_and_score_completions),
trl 1.16; torch 2.15.
"""
import json
import torch
import torch.nn.functional as F

torch.manual_seed(0)
L = lambda t: [round(x, 7) for x in t.detach().flatten().tolist()]
out = {}

# Reward model: soft labels, margin, centering.
rc, rr = torch.randn(5, requires_grad=True), torch.randn(5, requires_grad=True)
p, m, c = torch.tensor([1.0, 0.5, 0.9, 0.0, 0.7]), torch.tensor([0.0, 0.2, 0.0, 0.1, 0.0]), 0.01
d = rc - rr - m
loss = -(p * F.logsigmoid(d) + (1 - p) * F.logsigmoid(-d)).mean() + c * ((rc + rr) ** 2).mean()
loss.backward()
out["reward"] = dict(rc=L(rc), rr=L(rr), p=L(p), margin=L(m), center=c, loss=loss.item(),
                     drc=L(rc.grad), drr=L(rr.grad))

# DPO: sigmoid with label smoothing as a soft label, robust, ipo (sums over tokens).
out["dpo"] = []
for kind in ["sigmoid", "robust", "ipo"]:
    pc, pr = torch.randn(4, requires_grad=True), torch.randn(4, requires_grad=True)
    fc, fr = torch.randn(4), torch.randn(4)
    beta, eps = 0.3, 0.1
    h = (pc - pr) - (fc - fr)
    if kind == "sigmoid":
        losses = -F.logsigmoid(beta * h) * (1 - eps) - F.logsigmoid(-beta * h) * eps
    elif kind == "robust":
        losses = (-F.logsigmoid(beta * h) * (1 - eps) + F.logsigmoid(-beta * h) * eps) / (1 - 2 * eps)
    else:
        losses = (h - 1 / (2 * beta)) ** 2
    losses.mean().backward()
    out["dpo"].append(dict(kind=kind, beta=beta, p=1 - eps, pc=L(pc), pr=L(pr), fc=L(fc), fr=L(fr),
                           loss=losses.mean().item(), dpc=L(pc.grad), dpr=L(pr.grad)))

# PPO: rewards, GAE, whitening, clipped losses on two completions of different length.
def masked_mean(x, mask):
    return (x * mask).sum() / mask.sum()

def masked_whiten(x, mask, shift_mean=True):
    mean = masked_mean(x, mask)
    var = masked_mean((x - mean) ** 2, mask)  # population variance
    w = (x - mean) * torch.rsqrt(var + 1e-8)
    return w if shift_mean else w + mean

T, lens = 6, [6, 4]
mask = torch.tensor([[float(t < n) for t in range(T)] for n in lens])
old, ref, vals = torch.randn(2, T) - 1.5, torch.randn(2, T) - 1.5, torch.randn(2, T)
scores, beta, gamma, lam = torch.tensor([1.3, -0.4]), 0.05, 0.99, 0.9
rewards = -beta * (old - ref)
for b, n in enumerate(lens):
    rewards[b, n - 1] += scores[b]
white = masked_whiten(rewards, mask, shift_mean=False)
vals_m = vals * mask
adv = torch.zeros(2, T)
for b, n in enumerate(lens):
    last = 0.0
    for t in reversed(range(n)):
        nxt = vals[b, t + 1] if t < n - 1 else 0.0
        last = white[b, t] + gamma * nxt - vals[b, t] + gamma * lam * last
        adv[b, t] = last
returns = adv + vals
adv_w = masked_whiten(adv, mask)
new = (old + 0.4 * torch.randn(2, T)).requires_grad_()
vnew = (vals + 0.5 * torch.randn(2, T)).requires_grad_()
clip, clipv, vf = 0.2, 0.2, 0.1
ratio = torch.exp(new - old)
pg = torch.max(-adv_w * ratio, -adv_w * torch.clamp(ratio, 1 - clip, 1 + clip))
vclip = torch.clamp(vnew, vals - clipv, vals + clipv)
vl = 0.5 * torch.max((vnew - returns) ** 2, (vclip - returns) ** 2)
loss = masked_mean(pg, mask) + vf * masked_mean(vl, mask)
loss.backward()
ragged = lambda x: [L(x[b, :n]) for b, n in enumerate(lens)]
out["ppo"] = dict(old=ragged(old), reference=ragged(ref), values=ragged(vals), scores=L(scores), beta=beta,
                  gamma=gamma, lam=lam, rewards=ragged(rewards), white=ragged(white), returns=ragged(returns),
                  advantages=ragged(adv_w), new=ragged(new), new_values=ragged(vnew), loss=loss.item(),
                  dnew=ragged(new.grad), dvalues=ragged(vnew.grad))

# Leave-one-out baseline: three prompts of four completions, with a KL penalty in the reward.
K = 4
groups = torch.arange(3).repeat_interleave(K)
lens = [1 + (5 * i) % 6 for i in range(3 * K)]
rewards = [0.3 * torch.randn(n) for n in lens]
total = torch.stack([r.sum() for r in rewards])
grouped = total.view(-1, K)
baselines = ((grouped.sum(dim=1, keepdim=True) - grouped) / (K - 1)).view(-1)
out["leave_one_out"] = dict(groups=groups.tolist(), rewards=[L(r) for r in rewards],
                            whole=L(total - baselines))
print(json.dumps(out))
