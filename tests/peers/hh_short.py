"""Short pairs of HH-RLHF, for judges that are slow: prompt and answers of at most 300 characters.

    python tests/peers/hh_short.py harmless_base_dev.jsonl.gz 200 > hh.jsonl    # standard library alone

Takes the first rows that are short enough and where both transcripts differ in the last answer only.
"""

import gzip
import json
import sys

TURN = "\n\nAssistant:"


def parts(transcript):
    at = transcript.rfind(TURN)
    return transcript[:at], transcript[at + len(TURN) :]


left = int(sys.argv[2])
with gzip.open(sys.argv[1], "rt", encoding="utf-8") as file:
    for line in file:
        row = json.loads(line)
        prompt, chosen = parts(row["chosen"])
        other, rejected = parts(row["rejected"])
        whole = chosen.strip() and rejected.strip() and prompt == other
        if left > 0 and whole and max(map(len, (prompt, chosen, rejected))) <= 300:
            print(json.dumps(row))
            left -= 1
