"""People's ratings of argilla given to rlaif, and rlaif's labels given to argilla; no server.

    pip install argilla==2.8.0 datasets==5.2.0 requests
    python argilla_verdicts.py ours LABELS              # labels of `rlaif judge` -> rg.Record and back
    python argilla_verdicts.py theirs PAIRS VERDICTS [--nested]   # ratings of two people on PAIRS

`ours` makes an argilla record of each label (the judge's probability as the suggestion's score),
puts them through argilla's own export and a `datasets` file, and compares. `theirs` rates each pair
as person 1 (first better, or a tie on every fifth row) and person 2 (second better; every seventh
row discarded) and writes what `records.to_list(flatten=True)` exports, which

    rlaif judge PAIRS … --import-human VERDICTS

reads. Prints one JSON line; an assertion fails where something was lost.
"""
import json, sys, tempfile, uuid, warnings

warnings.simplefilter("ignore")

import argilla as rg
from argilla.records._io import GenericIO  # what `dataset.records.to_list` calls once it has a server
from datasets import load_dataset

ANN, BOB = uuid.UUID(int=1), uuid.UUID(int=2)
text = lambda prompt: prompt if isinstance(prompt, str) else prompt[-1]["content"]


def both(row):
    done = row.get("completions") or [row["response_a"], row["response_b"]]
    return {"instruction": text(row["prompt"]), "generations-0": done[0], "generations-1": done[1]}


def save(rows, path):
    with open(path, "w") as out:
        out.writelines(json.dumps(r, default=str) + "\n" for r in rows)


way, source = sys.argv[1:3]
rows = [json.loads(line) for line in open(source)]
if way == "theirs":
    records, counted = [], {"first": 0, "second": 0, "tie": 0, "discarded": 0}
    for i, row in enumerate(rows):
        tie, gone = i % 5 == 0, i % 7 == 0
        given = [(ANN, 3 if tie else 5, 3, "submitted"),
                 (BOB, 2, 4, "discarded" if gone else "submitted")]
        counted["tie" if tie else "first"] += 1
        counted["discarded" if gone else "second"] += 1
        answers = [rg.Response(f"generations-{k}-rating", value[k], user_id=who, status=value[-1])
                   for who, *value in given for k in (0, 1)]
        records.append(rg.Record(fields=both(row), responses=answers))
    save(GenericIO.to_list(records, flatten="--nested" not in sys.argv), sys.argv[3])
    print(json.dumps({"argilla": rg.__version__, "records": len(records), **counted}))
else:
    records = []
    for row in rows:
        suggestions = []
        if row["p_first"] is not None and row["outcome"] == "decided":
            first = row["p_first"] > 0.5
            suggestions = [rg.Suggestion("preference", "generations-0" if first else "generations-1",
                                         score=row["p_chosen"], agent=row["judge"])]
        records.append(rg.Record(id=row["rlaif_id"], fields=both(row), suggestions=suggestions,
                                 metadata={"outcome": row["outcome"]}))
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as made:
        save(GenericIO.to_list(records, flatten=True), made.name)
        back = load_dataset("json", data_files=made.name, split="train").to_list()
    assert len(back) == len(rows)
    decided = 0
    for row, got in zip(rows, back):
        assert got["id"] == row["rlaif_id"] and got["outcome"] == row["outcome"]
        if row["outcome"] == "decided":
            decided += 1
            assert got[got["preference.suggestion"]] == row["chosen"]
            assert abs(got["preference.suggestion.score"] - row["p_chosen"]) < 1e-9
    print(json.dumps({"argilla": rg.__version__, "records": len(rows), "decided": decided}))
