"""Reference renderings of chat templates by `transformers`' `apply_chat_template`.

    python tests/golden/engine/templates.py crates/rlaif-engine/tests/golden/chat
    python tests/golden/engine/templates.py --trl target/release/examples/render

The first writes a small byte-level tokenizer whose post-processor adds a BOS, and golden.json: for each
template and conversation the text, the ids and, where the template marks turns, the assistant's mask.
The templates are written here in the layouts that SmolLM2, Zephyr and TinyLlama, Llama 2, Llama 3.x and
Qwen (ChatML) were trained with. The second gives every chat template that ships with TRL to both
sides, on the same conversations, and counts those that agree. transformers 5.24, trl 1.16.
"""
import glob, json, os, subprocess, sys, tempfile

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|user|>", "<|assistant|>", "<|system|>",
           "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
BASE = "You are a helpful AI assistant."
TEMPLATES = {
    # A default system prompt where none is given; no marks.
    "smollm2": """{% for m in messages %}{% if loop.first and m['role'] != 'system' %}{{ '<|im_start|>system
You are a small model.<|im_end|>
' }}{% endif %}{{ '<|im_start|>' + m['role'] + '
' + m['content'] + '<|im_end|>' + '
' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}""",
    # An end token after every turn, roles by comparison, newlines of the template's own trimmed.
    "zephyr": """{% for m in messages %}
{% if m['role'] == 'user' %}
{{ '<|user|>\\n' + m['content'] + eos_token }}
{% elif m['role'] == 'system' %}
{{ '<|system|>\\n' + m['content'] + eos_token }}
{% elif m['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + m['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}""",
    # The system prompt goes into the first user turn; a BOS for every exchange; other orders refused.
    "llama2": """{% if messages[0].role == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0].content %}\
{% else %}{% set rest = messages %}{% set system = false %}{% endif %}{% for m in rest %}\
{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns have to alternate user/assistant') }}{% endif %}\
{% if loop.index0 == 0 and system is not false %}{% set text = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + m.content %}\
{% else %}{% set text = m.content %}{% endif %}{% if m.role == 'user' %}{{ bos_token ~ '[INST] ' ~ text.strip() ~ ' [/INST]' }}\
{% else %}{{ ' ' ~ text | trim ~ ' ' ~ eos_token }}{% endif %}{% endfor %}""",
    # Headers, trimmed content, a fixed date, tools by name, marked turns.
    "llama3": """{{- '<|begin_of_text|>' }}
{%- if not day is defined %}
    {%- set day = '26 Jul 2024' %}
{%- endif %}
{%- if tools is not none or documents is iterable %}
    {{- raise_exception('no tools here') }}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set first = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set first = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: ' + day + '\\n\\n' + first + '<|eot_id|>' }}
{%- for m in messages %}
    {{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' }}
    {%- if m['role'] == 'assistant' %}
        {%- generation %}
        {{- m['content'] | trim + '<|eot_id|>' }}
        {%- endgeneration %}
    {%- else %}
        {{- m['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    # ChatML with a namespace, a search from the end, thoughts taken out of earlier turns, marked turns.
    "qwen": """{%- set ns = namespace(last=-1) %}
{%- for m in messages[::-1] %}
    {%- set i = (messages|length - 1) - loop.index0 %}
    {%- if ns.last < 0 and m.role == 'user' and not m.content.startswith('<tool') %}{% set ns.last = i %}{% endif %}
{%- endfor %}
{%- for m in messages %}
    {%- set content = m.content if m.content is string else '' %}
    {%- if m.role == 'assistant' %}
        {%- if '</think>' in content and loop.index0 < ns.last %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
<|im_start|>assistant
{% generation %}{{ content }}<|im_end|>
{% endgeneration %}
    {%- else %}
        {{- '<|im_start|>' ~ m.role ~ '\\n' ~ content ~ '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}""",
}

user = lambda t: {"role": "user", "content": t}
assistant = lambda t: {"role": "assistant", "content": t}
system = lambda t: {"role": "system", "content": t}
HARD = "  Naïve “quotes”, <b>&amp;</b> {{ 7 * 7 }} {% if %}\n\n日本語 🙂 </s><|im_end|> [INST] x  "
CHATS = [
    [user("Hi")],
    [system("Be brief."), user("What is 2+2?")],
    [user("Hello there"), assistant("General reply."), user("And 10,000 more?")],
    [system(" Speak like a pirate \n"), user(HARD), assistant("<think>\nhm\n</think>\n\nAye!"), user("Again"), assistant(HARD), user("")],
    [user("a"), assistant("b"), user("c"), assistant("d")],
    [assistant("I begin.")],
]

def expected(tok, template, named, chat, generate):
    kw = dict(chat_template=template, add_generation_prompt=generate)
    for k, v in named.items():
        setattr(tok, k, v)
    try:
        text = tok.apply_chat_template(chat, tokenize=False, **kw)
    except Exception as e:
        return dict(error=type(e).__name__)
    marks = "generation" in template and "endgeneration" in template
    got = tok.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=marks, **kw)
    mask = got.get("assistant_masks")
    return dict(text=text, ids=got["input_ids"], **({"mask": [i for i, x in enumerate(mask) if x]} if mask is not None else {}))

def tokenizer():
    t = Tokenizer(models.BPE(unk_token="<unk>"))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    corpus = [m["content"] for c in CHATS for m in c] + [BASE, "Today Date: 26 Jul 2024 system user assistant"]
    t.train_from_iterator(corpus * 3, trainers.BpeTrainer(vocab_size=340, special_tokens=SPECIAL, show_progress=False,
                                                          initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    # What makes a double BOS where a rendered template is tokenized again with special tokens.
    t.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=t, bos_token="<s>", eos_token="</s>", unk_token="<unk>")

NAMED = {"bos_token": "<s>", "eos_token": "</s>"}
tok = tokenizer()
if sys.argv[1] != "--trl":
    out = sys.argv[1]
    os.makedirs(out, exist_ok=True)
    json.dump(json.loads(tok.backend_tokenizer.to_str()), open(f"{out}/tokenizer.json", "w"), ensure_ascii=False)
    json.dump(NAMED, open(f"{out}/tokenizer_config.json", "w"))
    cases = [dict(template=n, chat=i, generate=g, **expected(tok, t, NAMED, c, g))
             for n, t in TEMPLATES.items() for i, c in enumerate(CHATS) for g in (False, True)]
    json.dump(dict(templates=TEMPLATES, chats=CHATS, cases=cases), open(f"{out}/golden.json", "w"), ensure_ascii=False, indent=0)
    print(len(cases), "cases,", sum("error" in c for c in cases), "refused,", sum("mask" in c for c in cases), "with masks")
    sys.exit()

import trl
folder = tempfile.mkdtemp()
open(f"{folder}/tokenizer.json", "w").write(tok.backend_tokenizer.to_str())
files = sorted(glob.glob(os.path.join(os.path.dirname(trl.__file__), "chat_templates", "*.jinja")))
same, refused, differ = 0, 0, []
for f in files:
    text = open(f).read()
    json.dump(dict(NAMED, chat_template=text), open(f"{folder}/tokenizer_config.json", "w"))
    asked = [dict(messages=c, generate=g) for c in CHATS for g in (False, True)]
    run = subprocess.run([sys.argv[2], folder], input="\n".join(map(json.dumps, asked)), capture_output=True, text=True)
    ours = [json.loads(l) for l in run.stdout.splitlines()] or [dict(error=run.stderr.strip())] * len(asked)
    wrong = []
    for a, o in zip(asked, ours):
        e = expected(tok, text, NAMED, a["messages"], a["generate"])
        if "error" in e or "error" in o:
            ok = "error" in e and "error" in o
        else:
            ok = all(o[k] == e[k] for k in ("text", "ids")) and (not e.get("mask") or a["generate"] or o.get("mask") == e["mask"])
        if not ok:
            wrong.append((a, e, o))
    name = os.path.basename(f)
    if wrong:
        differ.append(name)
        a, e, o = wrong[0]
        print(f"{name}: {len(wrong)} of {len(asked)} differ\n  asked {json.dumps(a)[:300]}\n  theirs {json.dumps(e)[:700]}\n  ours   {json.dumps(o)[:700]}")
    else:
        same += 1
print(f"{same} of {len(files)} templates agree on {len(asked)} conversations each; differ: {differ}")
