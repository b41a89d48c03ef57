"""Short pairs of HH-RLHF, for judges that are slow.

    python tests/peers/hh_short.py FILE.jsonl.gz ROWS [CHARS] > hh.jsonl    # standard library alone

Takes the first ROWS whose prompt and answers have at most CHARS characters each (300), and whose
transcripts differ in the last answer only.
"""

import gzip
import json
import sys

TURN = "\n\nAssistant:"


def parts(transcript):
    at = transcript.rfind(TURN)
    return transcript[:at], transcript[at + len(TURN) :]


left = int(sys.argv[2])
most = int(sys.argv[3]) if len(sys.argv) > 3 else 300
with gzip.open(sys.argv[1], "rt", encoding="utf-8") as file:
    for line in file:
        row = json.loads(line)
        prompt, chosen = parts(row["chosen"])
        other, rejected = parts(row["rejected"])
        whole = chosen.strip() and rejected.strip() and prompt == other
        if left > 0 and whole and max(map(len, (prompt, chosen, rejected))) <= most:
            print(json.dumps(row))
            left -= 1
