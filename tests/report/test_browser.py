"""The page in a real browser, 400 pixels wide as on a phone: nothing overflows, fails or is fetched."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next((path for name in BROWSERS if (path := shutil.which(name))), None)
WIDTH = 400
# In a frame, since a window of a browser cannot be so narrow; the frame tells its measures to the page around it.
MEASURE = """<script>addEventListener("load", () => {
  for (const each of document.querySelectorAll("details")) each.open = true;
  const sticksOut = (e) => !e.closest(".scroll, pre") && e.getBoundingClientRect().right > innerWidth + 1;
  const scrolling = [...document.querySelectorAll(".scroll")].filter((e) => e.scrollWidth > e.clientWidth);
  parent.postMessage({
    name: location.pathname.split("/").pop(),
    width: innerWidth,
    needed: document.documentElement.scrollWidth,
    tooWide: [...document.querySelectorAll("body *")].filter(sticksOut).map((e) => e.outerHTML.slice(0, 90)),
    scrolling: scrolling.length,
    unexplained: scrolling.filter((e) => !e.previousElementSibling?.matches(".hint")).map((e) => e.innerText),
    hints: [...document.querySelectorAll(".hint")].filter((e) => e.offsetParent).length,
    fetched: performance.getEntriesByType("resource").map((e) => e.name),
  }, "*");
})</script>"""
AROUND = """<!DOCTYPE html><link rel="icon" href="data:,"><pre></pre><script>
console.log("control");
addEventListener("message", (e) => document.querySelector("pre").append(JSON.stringify(e.data) + "\\n"));
</script>"""
CONTROL = (
    '<!DOCTYPE html><title>x</title><div style="width: 600px">wide</div><img src="http://missing.invalid/x.png" alt="">'
)


def seen_by_a_browser(folder: Path, pages: dict[str, str]) -> tuple[dict[str, dict[str, object]], list[str]]:
    """What each page measures in a frame, by its file name, and the lines on the console."""
    frames = ""
    for name, text in pages.items():
        (folder / name).write_text(text.replace("</title>", f"</title>{MEASURE}", 1), encoding="utf-8")
        frames += f'<iframe src="{name}" style="width: {WIDTH}px; height: 900px; border: 0"></iframe>'
    (folder / "around.html").write_text(AROUND + frames, encoding="utf-8")
    options = "--headless=new --no-sandbox --hide-scrollbars --disable-gpu --disable-dev-shm-usage"
    options += " --disable-background-networking --enable-logging=stderr --v=0 --virtual-time-budget=10000 --dump-dom"
    command = [str(BROWSER), *options.split(), "--host-resolver-rules=MAP * ~NOTFOUND"]
    command += [f"--user-data-dir={folder / 'profile'}", (folder / "around.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    said = html.unescape(re.search("<pre>(.*?)</pre>", done.stdout, re.DOTALL)[1])  # type: ignore[index]
    found = [json.loads(line) for line in said.splitlines()]
    console = re.findall(r'CONSOLE.*?\] "(.*?)", source', done.stderr)
    return {each["name"]: each for each in found}, console


@pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(BROWSERS)} is installed")
def test_the_page_fits_a_phone_and_asks_nobody_for_anything(page: str, tmp_path: Path) -> None:
    found, console = seen_by_a_browser(tmp_path, {"report.html": page, "control.html": CONTROL})
    seen, control = found["report.html"], found["control.html"]
    assert (seen["width"], seen["needed"]) == (WIDTH, WIDTH)
    assert seen["tooWide"] == []
    assert seen["fetched"] == []
    assert seen["scrolling"]  # what is wider is in a box of its own, with a hint
    assert seen["unexplained"] == []
    assert seen["hints"] == 4  # candidates, correlations, the map of densities and its table
    assert [line for line in console if line != "control" and "ERR_NAME_NOT_RESOLVED" not in line] == []
    assert "control" in console  # the test sees what it says that it sees
    assert control["needed"] == 608
    assert control["fetched"] == ["http://missing.invalid/x.png"]
