"""One optimisation step of TRL's RewardTrainer and DPOTrainer over an export of rlaif.

Proves that a file written by `rlaif export --to trl` is what TRL takes: `datasets` loads it, every
row reaches both trainers, and one step on CPU ends with a finite loss. Nothing is downloaded: the
tokenizer is trained on the file's own text and the models are tiny and random, so the losses say
that the step ran and nothing about quality.

Set up once, from the repository's root (torch is large, which is why CI does not run this):

    python3 -m venv target/peers
    target/peers/bin/pip install -r tests/peers/requirements.txt

then run

    target/peers/bin/python tests/peers/trl_step.py EXPORT_FILE      # .jsonl, .jsonl.gz or .parquet

It prints one JSON line: versions, format, rows in the file, rows that reached each trainer, losses.
Exit code 0 where all holds, 1 where a claim fails, 2 where the file cannot be used.
"""

import argparse
import contextlib
import copy
import json
import math
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # the claim is about CPU, whatever the machine
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

COLUMNS = ("chosen", "rejected")
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Unusable(Exception):
    """The file cannot be used; the message says what was expected."""


def load(path: Path):
    """The file as `datasets` reads it, and the number of rows counted without `datasets`."""
    from datasets import load_dataset

    if path.suffix == ".parquet":
        import pyarrow.parquet

        kind, rows = "parquet", pyarrow.parquet.ParquetFile(path).metadata.num_rows
    elif ".jsonl" in path.suffixes:
        import gzip

        opened = gzip.open(path, "rt") if path.suffix == ".gz" else open(path, encoding="utf-8")
        with opened as lines:
            kind, rows = "json", sum(1 for line in lines if line.strip())
    else:
        raise Unusable(f"`{path}` is neither .jsonl, .jsonl.gz nor .parquet")
    if rows == 0:
        raise Unusable(f"`{path}` has no rows")
    with tempfile.TemporaryDirectory() as cache:
        data = load_dataset(
            kind, data_files=str(path), split="train", cache_dir=cache, keep_in_memory=True
        )
    missing = [name for name in COLUMNS if name not in data.column_names]
    if missing:
        raise Unusable(f"`{path}` lacks the columns {missing}, it has {data.column_names}")
    if "prompt" not in data.column_names and isinstance(data[0]["chosen"], str):
        raise Unusable(f"`{path}` has no column `prompt`: DPO needs one beside plain strings")
    return data, rows


def texts(row):
    """Every piece of text in the columns that TRL reads."""
    for name in ("prompt", *COLUMNS):
        value = row.get(name)
        if isinstance(value, str):
            yield value
        else:
            yield from (message["content"] for message in value or [])


def make_tokenizer(data):
    """Byte-level BPE over the file's own text: every byte has a token, so no text is unknown."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<|im_start|>", "<|im_end|>", "<|pad|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text for row in data for text in texts(row)), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|pad|>"
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_config(tokenizer):
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def misread(trainer, data, tokenizer):
    """Rows whose tokens, as the trainer holds them, do not spell the row's own texts."""
    wrong = 0
    for row, got in zip(data, trainer.train_dataset):
        prompt = tokenizer.decode(got.get("prompt_ids", []))
        spelled = {name: prompt + tokenizer.decode(got[name + "_ids"]) for name in COLUMNS}
        wrong += any(
            text not in spelled[name]
            for name in COLUMNS
            for text in texts({"prompt": row.get("prompt"), name: row[name]})
        )
    return wrong


def step(trainer, data, tokenizer):
    """Trains one step; the loss, the rows that arrived, and whether a weight moved."""
    wrong = misread(trainer, data, tokenizer)
    before = {k: v.detach().clone() for k, v in trainer.model.named_parameters() if v.requires_grad}
    loss = trainer.train().training_loss
    moved = any(not before[k].equal(v) for k, v in trainer.model.named_parameters() if k in before)
    return {
        "loss": loss,
        "rows": len(trainer.train_dataset),
        "misread": wrong,
        "weights_moved": moved,
    }


def run(path: Path):
    data, rows = load(path)

    import torch
    from transformers import LlamaForCausalLM, LlamaForSequenceClassification
    from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer

    torch.manual_seed(0)
    tokenizer = make_tokenizer(data)
    common = dict(
        max_steps=1,
        per_device_train_batch_size=min(4, rows),
        learning_rate=1e-3,
        # Without warm-up and decay the single step has the rate given.
        lr_scheduler_type="constant",
        max_length=None,  # a row that TRL drops for its length would go unnoticed otherwise
        use_cpu=True,
        bf16=False,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        logging_strategy="no",
    )
    done = {}
    with tempfile.TemporaryDirectory() as folder:
        config = make_config(tokenizer)
        config.num_labels = 1
        done["reward"] = step(
            RewardTrainer(
                model=LlamaForSequenceClassification(config),
                args=RewardConfig(output_dir=folder, **common),
                train_dataset=data,
                processing_class=copy.deepcopy(tokenizer),
            ),
            data,
            tokenizer,
        )
        policy = LlamaForCausalLM(make_config(tokenizer))
        done["dpo"] = step(
            DPOTrainer(
                model=policy,
                ref_model=copy.deepcopy(policy),
                args=DPOConfig(output_dir=folder, **common),
                train_dataset=data,
                processing_class=copy.deepcopy(tokenizer),
            ),
            data,
            tokenizer,
        )

    faults = []
    for name, got in done.items():
        if not math.isfinite(got["loss"]):
            faults.append(f"{name}: the loss is {got['loss']}")
        if got["rows"] != rows:
            faults.append(f"{name}: {got['rows']} of {rows} rows reached the trainer")
        if got["misread"]:
            faults.append(f"{name}: {got['misread']} rows read as other text than they hold")
        if not got["weights_moved"]:
            faults.append(f"{name}: no weight moved")
    # A policy that equals its reference has the DPO loss ln 2 whatever the rows say (the log-ratios
    # are 0); another value means that the set-up here is not what this script believes.
    if abs(done["dpo"]["loss"] - math.log(2)) > 1e-3:
        faults.append(f"dpo: the first loss is {done['dpo']['loss']}, expected ln 2")
    packages = ("trl", "transformers", "datasets", "tokenizers", "torch")
    return {
        "ok": not faults,
        "faults": faults,
        "format": "standard" if isinstance(data[0]["chosen"], str) else "conversational",
        "columns": data.column_names,
        "rows": rows,
        **done,
        "versions": {"python": sys.version.split()[0], **{p: version(p) for p in packages}},
    }


def main():
    about, _, usage = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        description=about, epilog=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("export_file", metavar="EXPORT_FILE", type=Path)
    path = parser.parse_args().export_file
    try:
        if not path.is_file():
            raise Unusable(f"`{path}` is no file")
        with contextlib.redirect_stdout(sys.stderr):  # trainers print; stdout is for the result
            result = run(path)
    except Unusable as fault:
        print(f"trl_step: {fault}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as fault:
        print(
            f"trl_step: {fault}; install with `pip install -r tests/peers/requirements.txt`",
            file=sys.stderr,
        )
        return 2
    print(json.dumps(result))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
