"""How long pages take to open in a browser, from the call to the end of loading, into docs/performance.md.

python benchmarks/opening.py results/organism/report.html results/comparison/report.html

Chromium, without a window, opens each page several times, each time as a new browser, and tells through its debugging pipe
when it painted first and when the page was loaded. Starting the browser is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1] / "scripts"), str(Path(__file__).parent)]

from page import DOCUMENT, Table, number, write_part

COMMAND = "chromium --headless --no-sandbox --disable-gpu --no-first-run --remote-debugging-pipe".split()
FREE = 20
"""A descriptor that no pipe of ours has: one of them may be the browser's 3 or 4."""
TIMES = """JSON.stringify({
  painted: performance.getEntriesByName("first-contentful-paint")[0]?.startTime,
  loaded: performance.getEntriesByType("navigation")[0]?.loadEventEnd,
  elements: document.getElementsByTagName("*").length})"""
EVERY, AT_MOST = 0.2, 60
"""Seconds between two looks at the page, and until it is given up."""


class Browser:
    """A Chromium that is spoken to in JSON, a message to each zero byte."""

    def __init__(self, asks: int, answers: int) -> None:
        self.asks, self.answers, self.read, self.asked = asks, answers, b"", 0

    def ask(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """The answer to one call; what the browser tells meanwhile is passed over."""
        self.asked += 1
        message = {"id": self.asked, "method": method, "params": params}
        message |= {"sessionId": session} if session else {}
        os.write(self.asks, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.read:
                if not (more := os.read(self.answers, 1 << 20)):
                    raise SystemExit("chromium ended before the page was loaded")
                self.read += more
            one, _, self.read = self.read.partition(b"\0")
            if (said := json.loads(one)).get("id") == self.asked:
                return said["result"]


@contextmanager
def browser(width: int) -> Iterator[Browser]:
    """A new browser with a profile of its own. It reads from the descriptor 3 and writes to 4."""
    (its_asks, our_asks), (our_answers, its_answers) = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        moved = f'exec "$@" {FREE}<&{its_asks} 4>&{its_answers} 3<&{FREE}'
        process = subprocess.Popen(
            ["bash", "-c", moved, "bash", *COMMAND, f"--user-data-dir={profile}", f"--window-size={width},900", "about:blank"],
            pass_fds=(its_asks, its_answers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(its_asks)
        os.close(its_answers)
        try:
            yield Browser(our_asks, our_answers)
        finally:
            process.kill()
            process.wait()
            os.close(our_asks)
            os.close(our_answers)


def opening(page: Path, width: int) -> dict[str, float]:
    """Milliseconds to the first paint and to the end of loading, and the page's elements."""
    with browser(width) as ours:
        target = next(one for one in ours.ask("Target.getTargets")["targetInfos"] if one["type"] == "page")
        session = ours.ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        ours.ask("Page.navigate", session, url=page.resolve().as_uri())
        for _ in range(int(AT_MOST / EVERY)):
            time.sleep(EVERY)
            said = ours.ask("Runtime.evaluate", session, expression=TIMES)["result"].get("value", "{}")
            times = json.loads(said)
            if times.get("painted") and times.get("loaded"):
                return times
    raise SystemExit(f"{page}: not loaded after {AT_MOST} seconds")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pages", type=Path, nargs="+", help="results/<study>/report.html")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--width", type=int, default=1200, help="of the window, in pixels")
    arguments = parser.parse_args()
    found: dict[Path, list[dict[str, float]]] = {page: [] for page in arguments.pages}
    for _ in range(arguments.rounds):
        for page, times in found.items():
            times.append(opening(page, arguments.width))
            print(page, times[-1], flush=True)
    rows = []
    for page, times in found.items():
        loaded = sorted(one["loaded"] / 1000 for one in times)
        rows.append((
            str(page), number(page.stat().st_size / 1e6), f"{times[0]['elements']:,}",
            number(min(one["painted"] for one in times) / 1000),
            f"{number(loaded[0])} ({number(loaded[len(loaded) // 2])})",
        ))  # fmt: skip
    table = Table(
        title="Opening the pages", columns=("page", "MB", "elements", "first paint, seconds", "loaded, seconds"), rows=rows,
        note=f"The fastest of {arguments.rounds} (in brackets the median), each in a new browser.",
    )  # fmt: skip
    print(table.plain())
    about = [
        f"command: `python benchmarks/opening.py {' '.join(map(str, arguments.pages))}`",
        f"machine: {platform.machine()}, {os.cpu_count()} cores, {_version()}, without a GPU",
        f"date: {date.today()}",
    ]
    write_part(DOCUMENT, "opening", about, [table], "How fast the pages open")


def _version() -> str:
    return subprocess.run(
        [COMMAND[0], "--version"], capture_output=True, text=True, check=True
    ).stdout.strip()


if __name__ == "__main__":
    main()
