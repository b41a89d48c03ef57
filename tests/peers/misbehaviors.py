"""What distilabel and alpaca_eval record for answers of a judge that are no clean verdict.

    pip install distilabel==1.5.3 alpaca_eval==0.6.6
    python misbehaviors.py

Calls the packages' own parsers, no model. What rlaif records is in
`crates/rlaif-feedback/tests/judging.rs`; docs/judging.md sets them side by side.
"""

import contextlib
import copy
import io
import logging
import warnings

logging.disable(logging.CRITICAL)
warnings.simplefilter("ignore")

from alpaca_eval.completion_parsers import ranking_parser, regex_parser
from distilabel.models.llms import LLM
from distilabel.steps import FormatTextGenerationDPO
from distilabel.steps.tasks.ultrafeedback import UltraFeedback

PAIR = {"instruction": "How much is 2 + 2?", "generations": ["4", "5"]}

ULTRAFEEDBACK = {
    "clean": "#### Output for Text 1\nRating: 5\nRationale: Right.\n\n#### Output for Text 2\nRating: 1\nRationale: Wrong.",
    "refusal": "I'm sorry, but I can't rate these.",
    "prose verdict": "Text 1 is clearly the better one.",
    "cut off": "#### Output for Text 1\nRating: 5\nRationale: It is",
    "both named": "Rating: 4, or perhaps 2\nRationale: Unsure.\n\nRating: 4, or perhaps 2\nRationale: Unsure.",
    "empty": "",
    "other language": "Bewertung: 5\nGrund: Richtig.\n\nBewertung: 1\nGrund: Falsch.",
    "JSON with a comment": '{"ratings": [5, 1] /* sure */}',
}

RANKING = {
    "clean": "[{'model': 'model_1', 'rank': 1}, {'model': 'model_2', 'rank': 2}]",
    "refusal": "I'm sorry, but I can't compare these.",
    "prose verdict": "model_1 is clearly the better one.",
    "cut off": "[{'model': 'model_1', 'rank': 1}, {'model':",
    "both named": "[{'model': 'model_1', 'rank': 1}, {'model': 'model_2', 'rank': 1}]",
    "empty": "",
    "other language": "Das erste Modell ist besser.",
    "JSON with a comment": "[{'model': 'model_1', 'rank': 1}, {'model': 'model_2', 'rank': 2}] // sure",
}

# The form of `claude_ranking` and its like: a letter told by a regular expression.
LETTER = {
    "clean": "Output (a)",
    "refusal": "I'm sorry, but I can't compare these.",
    "prose verdict": "The first one is clearly better.",
    "cut off": "Let me compare the two. Output (a) begins with",
    "both named": "Output (a) is kinder. Output (b) is more accurate.",
    "empty": "",
    "other language": "Die erste Ausgabe ist besser.",
    "JSON with a comment": '{"winner": "Output (a)" /* sure */}',
}


def told(run):
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return str(run())
    except Exception as error:  # what the package raises is what is to be shown
        return f"{type(error).__name__}: {error}"


class Nobody(LLM):
    """The task wants a model to be built with; none is asked."""

    @property
    def model_name(self):
        return "nobody"

    def generate(self, inputs, **kwargs):
        raise NotImplementedError


def ultrafeedback(text):
    task = UltraFeedback(llm=Nobody())
    rated = task.format_output(text, PAIR)
    ratings = rated.get("ratings")
    step = FormatTextGenerationDPO()
    row = copy.deepcopy(PAIR) | {"ratings": ratings}

    def pair():
        out = next(step.process([row]))[0]
        chosen, rejected = (out[side][-1]["content"] for side in ("chosen", "rejected"))
        return f"chosen {chosen}, rejected {rejected}"

    return f"ratings {ratings}; {told(pair)}"


for name in ULTRAFEEDBACK:
    print(f"{name}")
    print(f"  distilabel UltraFeedback, then FormatTextGenerationDPO: {told(lambda: ultrafeedback(ULTRAFEEDBACK[name]))}")
    print(f"  alpaca_eval ranking_parser: {told(lambda: ranking_parser(RANKING[name]))}")
    patterns = {1: r"Output \(a\)", 2: r"Output \(b\)"}
    print(f"  alpaca_eval regex_parser: {told(lambda: regex_parser(LETTER[name], dict(patterns)))}")
