"""Pages as a browser sees them: they draw, they answer the pointer, and they fetch nothing."""

import json
import os
import re
import shutil
import subprocess

import pytest
from report import pages

from tetrisim.report.html import report_page

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=f"none of {', '.join(NAMES)} is on PATH")

OWN = "not an origin"
"""The initiator of what the browser itself asks for, such as its updates."""


def open_page(path):
    """The page's DOM after its scripts ran, and every URL that it asked for beyond its own file."""
    log = path.with_suffix(".netlog")
    command = [
        CHROMIUM, "--headless", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=1280,2000",
        f"--user-data-dir={path.parent / 'profile'}", f"--log-net-log={log}", "--virtual-time-budget=5000",
        "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    if os.geteuid() == 0:
        command.insert(1, "--no-sandbox")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    events = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    return done.stdout, {event["url"] for event in events if "url" in event and event.get("initiator", OWN) != OWN}


@pytest.mark.parametrize("make", [pages.seeds, pages.unserved, pages.sweep, pages.plan])
def test_every_chart_is_drawn_without_an_error_and_nothing_is_fetched(tmp_path, make):
    page = report_page(make(tmp_path / "out"))
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    dom, fetched = open_page(tmp_path / "page.html")
    assert fetched == set()
    assert "data-error" not in dom, re.search(r'data-error="[^"]*"', dom)
    charts = re.findall(r"data-chart=", page)
    assert re.search(r'<html[^>]* data-drawn="(\d+)"', dom)[1] == str(len(charts)) != "0"
    places = dom.split("data-chart=")[1:]
    assert all(re.search(r"<svg [^>]*role=\"img\".*?<(path|rect|circle|line|text)", place, re.S) for place in places)
    assert "NaN" not in dom.split('<script type="application/json"')[0]


def test_a_page_that_fetches_is_seen_by_the_test_above(tmp_path):
    urls = {f"{kind}://example.invalid/{kind}" for kind in ("http", "https", "ws")}
    (tmp_path / "page.html").write_text(
        '<img src="http://example.invalid/http"><script src="https://example.invalid/https"></script>'
        '<script>new WebSocket("ws://example.invalid/ws")</script>'
    )
    assert open_page(tmp_path / "page.html")[1] == urls


def test_no_text_of_the_data_runs_and_a_policy_would_stop_it(tmp_path):
    page = report_page(pages.evil(tmp_path / "out"))
    injected = page.replace("</main>", "<script>document.title='owned'</script></main>")
    for name, text in (("page.html", page), ("injected.html", injected)):
        (tmp_path / name).write_text(text, encoding="utf-8")
        dom, fetched = open_page(tmp_path / name)
        assert fetched == set()
        assert "data-error" not in dom and "data-drawn" in dom
        assert "owned" in re.search(r"<title>(.*?)</title>", dom)[1], "the name of the system, as text"
        assert re.search(r"<title>(.*?)</title>", dom)[1] != "owned"


PROBE = """
const said = {};
const point = (pane, across, down) => {
  const box = pane.getBoundingClientRect();
  const at = {clientX: box.left + across * box.width, clientY: box.top + down * box.height};
  pane.dispatchEvent(new PointerEvent("pointermove", at));
  return document.querySelector(".tip").textContent;
};
said.cdf = point(document.querySelector("[data-chart=ttft] .pane"), 0.5, 0.5);
said.time = point(document.querySelector("[data-chart=busy] .pane"), 0.5, 0.5);
said.bar = point(document.querySelector("[data-chart=first] .bar"), 0.5, 0.5);
document.documentElement.dataset.said = JSON.stringify(said);
"""


def test_pointing_at_a_chart_shows_its_values(tmp_path):
    page = report_page(pages.comparison(tmp_path / "out"))
    open_to_scripts = re.sub(r"<meta http-equiv[^>]*>", "", page)
    (tmp_path / "page.html").write_text(open_to_scripts.replace("</body>", f"<script>{PROBE}</script></body>"))
    dom, _ = open_page(tmp_path / "page.html")
    said = json.loads(re.search(r"data-said=\"([^\"]*)\"", dom)[1].replace("&quot;", '"'))
    medians = {each["system"]: each["median_ttft_ms"] for each in pages.summaries()}
    assert said["cdf"].startswith("50 % within")
    for system, shown in re.findall(r"(vllm-v0|vllm-v1|tetriinfer)([\d,.]+) ms", said["cdf"]):
        assert float(shown.replace(",", "")) == pytest.approx(medians.pop(system), rel=0.02)
    assert medians == {}, "each system has its value"
    assert re.match(r"time \(s\): [\d.]+vllm-v0", said["time"])
    assert re.match(r"vllm-v0queueing[\d.]+ m?s \([\d.]+ %\)", said["bar"])


SWITCH = """
const select = document.querySelector("[data-chart=sweep] select");
select.selectedIndex = 1;
select.dispatchEvent(new Event("change"));
document.documentElement.dataset.said =
  [...document.querySelectorAll("[data-chart=sweep] svg[role=img] .label")].map(label => label.textContent).join("|");
"""


def test_a_sweep_is_seen_along_another_axis(tmp_path):
    page = re.sub(r"<meta http-equiv[^>]*>", "", report_page(pages.sweep(tmp_path / "out")))
    (tmp_path / "page.html").write_text(page.replace("</body>", f"<script>{SWITCH}</script></body>"))
    dom, _ = open_page(tmp_path / "page.html")
    assert "data-error" not in dom
    assert re.search(r"data-said=\"([^\"]*)\"", dom)[1].split("|")[:2] == ["system", "p99 TTFT, ms"]
