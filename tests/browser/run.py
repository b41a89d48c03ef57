"""Open hostile pages, a report and the page of new prompts, in a real headless Chromium and look at
what became of them.

Usage: run.py CHROMIUM PAGE OUTDIR   (standard library only; `cargo xtask browser` calls it)
The page of new prompts lies beside PAGE, with the ending .synth.html. Fails where any text of a model
ran as a script or became an element. Leaves screenshots at desktop and phone width, and in the dark.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-quic",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars",
]


def chromium(binary, *args):
    with tempfile.TemporaryDirectory() as profile:
        command = [binary, *FLAGS, f"--user-data-dir={profile}", *args]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.stdout


def look(binary, page, out, name):
    """Checks one page; screenshots of it are named after it."""
    url = page.as_uri()
    dom = chromium(binary, "--virtual-time-budget=3000", "--dump-dom", url)
    assert "<h1>" in dom, f"{page} did not load"
    title = re.search(r"<title>(.*?)</title>", dom, re.S).group(1)
    assert "PWNED" not in title.replace("'PWNED'", ""), f"a script ran: the title is {title!r}"
    assert dom.count("<script") == 1, "a script element came from a model's text"
    assert "<img" not in dom and "<iframe" not in dom, "an element came from a model's text"
    # The page's own script ran: it says how many cards are shown, and shows the controls.
    shown = re.search(r'id="shown"[^>]*>(\d+) of (\d+) cards', dom)
    assert shown and shown.group(1) == shown.group(2) != "0", "the page's own script did not run"
    dark = "--blink-settings=preferredColorScheme=0"
    for kind, size, more in (
        ("desktop", "1200,1600", []), ("phone", "400,1600", []), ("dark", "1200,1600", [dark]),
    ):
        shot = (out / f"{name}{kind}.png").resolve()
        chromium(binary, f"--window-size={size}", *more, f"--screenshot={shot}", url)
        assert shot.stat().st_size > 10_000, f"no screenshot at {shot}"
    return shown.group(2)


def main():
    binary, page, out = sys.argv[1], pathlib.Path(sys.argv[2]).resolve(), pathlib.Path(sys.argv[3])
    cards = look(binary, page, out, "")
    prompts = look(binary, page.with_suffix(".synth.html"), out, "synth-")
    print(f"browser: hostile text stayed text; {cards} and {prompts} cards; screenshots in {out}")


main()
