"""Pages in a real browser (headless Chromium): what they log and fetch, what they do when used, how they print."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest

NO_BROWSER = pytest.mark.skipif(
    shutil.which("chromium") is None, reason="chromium is not installed: the page is not opened in a browser"
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --virtual-time-budget=5000 --enable-logging=stderr"
)
TOOLS = """
const text = (node) => node.textContent.trim();
const column = (table, i) => [...table.tBodies[0].rows].map((row) => text(row.cells[i]));
const type = (field, value) => { field.value = value; field.dispatchEvent(new w.Event("input", {bubbles: true})); };
const choose = (list, value) => { list.value = value; list.dispatchEvent(new w.Event("change", {bubbles: true})); };
const enter = (node) => {
  for (const kind of ["keydown", "keypress", "keyup"])
    node.dispatchEvent(new w.KeyboardEvent(kind, {key: "Enter", code: "Enter", keyCode: 13, which: 13, bubbles: true}));
};
const soon = () => new Promise((done) => setTimeout(done, 50));
"""


def needs_browser(test: Callable) -> Callable:
    """Skip a test where there is no Chromium; mark it as slow where there is one."""
    return pytest.mark.slow(NO_BROWSER(test))


def opened(page: Path) -> tuple[str, list[str], set[str]]:
    """A page opened as a file: its document after loading, what it wrote to the console, and all that was asked for."""
    log = page.with_suffix(".netlog")
    done = _chromium(page, "--dump-dom", f"--log-net-log={log}")
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return done.stdout, console, _asked_for(log.read_text())


def _asked_for(log: str) -> set[str]:
    """The addresses that the page itself asked for, by Chromium's log; the browser's own requests have no origin."""
    events = [line.rstrip(",") for line in log.splitlines() if '"initiator":' in line and '"url":' in line]
    asked = [json.loads(line)["params"] for line in events]
    return {one["url"] for one in asked if one["initiator"] != "not an origin"}


def used(html: str, script: str, folder: Path, *, width: int = 1200, dark: bool = False) -> Any:
    """What `script` returns: the body of an async function of the page's document `d` and window `w`.

    The page is opened in a frame of that width, under its own Content-Security-Policy; the script stands outside. `dark`:
    the reader prefers dark colours.
    """
    framed, page = json.dumps(html).replace("</", "<\\/"), folder / "frame.html"
    page.write_text(
        f"<!doctype html><pre id=said></pre><iframe id=f width={width} height=800></iframe><script>"
        "f.onload = async () => { const w = f.contentWindow, d = f.contentDocument;"
        " if (!d.getElementById('content')) return;"
        f" {TOOLS} let found; try {{ found = await (async () => {{ {script} }})(); }}"
        " catch (error) { found = String(error); } said.textContent = JSON.stringify(found); };"
        f"f.srcdoc = {framed}</script>"
    )
    document = _chromium(page, "--dump-dom", *(["--force-dark-mode"] if dark else [])).stdout
    said = unescape(re.search(r'<pre id="said">(.*?)</pre>', document, re.DOTALL)[1])
    assert said, "the page did not load, or the script did not end"
    return json.loads(said)


def printed(page: Path) -> list[tuple[float, float]]:
    """Width and height of each sheet, in points, on which a page is printed."""
    file = page.with_suffix(".pdf")
    _chromium(page, f"--print-to-pdf={file}")
    boxes = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", file.read_bytes())
    return [(float(width), float(height)) for width, height in boxes]


def _chromium(page: Path, *flags: str) -> subprocess.CompletedProcess:
    profile = f"--user-data-dir={page.parent}/profile"
    command = ["chromium", *FLAGS.split(), *flags, profile, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
