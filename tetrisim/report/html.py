"""One self-contained page of a run, a comparison, a sweep or a plan, from its folder alone.

Tables and sentences are in the page as text; charts are drawn in the reader's browser from numbers in the page. Nothing
is fetched, and a policy in the page forbids it.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path

from tetrisim import __version__
from tetrisim.errors import OutputError
from tetrisim.report.html_folder import EXPECTED, Runs, read_folder
from tetrisim.report.html_parts import Page
from tetrisim.report.html_plan import plan_page
from tetrisim.report.html_runs import runs_page
from tetrisim.report.html_sweep import sweep_page


def report_page(folder: Path) -> str:
    """The page as text; raises OutputError for a folder that no command of tetrisim wrote, or a damaged one."""
    found = read_folder(folder)
    try:
        if isinstance(found, Runs):
            page = runs_page(found)
        else:
            page = plan_page(found) if found.kind == "plan" else sweep_page(found)
    except (KeyError, TypeError, ValueError, AttributeError) as problem:  # written by hand, or by another version
        what = f"lacks {problem}" if isinstance(problem, KeyError) else f"holds what it should not ({problem})"
        raise OutputError(str(folder), what, f"{EXPECTED}, as it was written") from problem
    return render(page, folder.resolve().name)


def render(page: Page, folder: str) -> str:
    """The page as HTML."""
    style, script = (_asset(f"html_page.{ending}") for ending in ("css", "js"))
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src '{_hash(script)}'"
    # In JSON a "<" can be written otherwise, so no text of the data ends its element.
    data = json.dumps(page.charts, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    links = "".join(f'<a href="#{section.id}">{escape(section.title)}</a>' for section in page.sections)
    body = "".join(
        f'<section id="{section.id}"><h2>{escape(section.title)}</h2>{section.html}</section>'
        for section in page.sections
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{escape(page.title)} · tetrisim</title>
<style>{style}</style>
</head>
<body>
<svg id="patterns" aria-hidden="true"></svg>
<main>
<h1>{escape(page.title)}</h1>
<p class="facts">{escape(page.facts)}</p>
{_findings(page.findings)}
<nav>{links}</nav>
<noscript><p class="findings warn">The charts are drawn by a script in this page, and scripts are switched off.</p>\
</noscript>
{body}
<p class="hint">Made by tetrisim {escape(__version__)} from the folder {escape(folder)}. It fetches nothing.</p>
</main>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""


def _findings(lines: Sequence[str]) -> str:
    said = "".join(f"<p>{escape(line)}</p>" for line in lines if line)
    return f'<div class="findings">{said}</div>' if said else ""


def _asset(name: str) -> str:
    return resources.files("tetrisim.report").joinpath(name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """The script's name in the policy: a script that is not this one does not run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
