"""The report as an HTML page: a single file without scripts and without other resources, which can be passed on.

It has a light and a dark style, and can be printed. It uses the same texts as report_text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape

from discosbackend.testing.report_text import (
    LEVELS,
    MEANINGS,
    areas,
    blocked_by,
    conclusion,
    counts,
    facts,
    left_out,
    printable,
    requirement,
)
from discosbackend.testing.results import Record, Result, Verdict

__all__ = ["page"]

# Text that is shown as code: Python's form of bytes, and text between backquotes in requirements.
_TYPED = re.compile(r"""(b'(?:[^'\\]|\\.)*'|b"(?:[^"\\]|\\.)*"|`[^`]+`)""")

# The contrast between text and background is at least 4.5 to 1, as WCAG AA requires.
_STYLE = """
:root {
  color-scheme: light dark;
  --ground: #ffffff; --text: #1c2228; --quiet: #55606b; --line: #d5dbe1; --panel: #f5f7f9; --link: #0b5394;
  --pass: #17612f; --pass-ground: #e4f3e8; --fail: #ffffff; --fail-ground: #a8121f;
  --non-strict: #734600; --non-strict-ground: #fdf0d5; --known: #54358f; --known-ground: #eee8fa;
  --unsupported: #46515c; --unsupported-ground: #e9edf1; --skipped: #46515c; --skipped-ground: #e9edf1;
  --blocked: #7a2a33; --blocked-ground: #f8e6e8;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --ground: #13171c; --text: #e1e6eb; --quiet: #a0abb6; --line: #343d47; --panel: #1b2127; --link: #8cc2f5;
    --pass: #8fdba3; --pass-ground: #18321f; --fail: #2a0508; --fail-ground: #ff9a9a;
    --non-strict: #f2c879; --non-strict-ground: #3a2b10; --known: #cbb8f5; --known-ground: #2e2547;
    --unsupported: #b9c3cd; --unsupported-ground: #2a323a; --skipped: #b9c3cd; --skipped-ground: #2a323a;
    --blocked: #f0b4b9; --blocked-ground: #3a2023;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 60rem; background: var(--ground); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere;
}
h1, h2, h3 { line-height: 1.25; font-weight: 600; }
h1 { font-size: 1.6rem; margin: 0 0 1rem; }
h2 {
  font-size: 1.2rem; margin: 2.5rem 0 .75rem; padding-bottom: .25rem; border-bottom: 1px solid var(--line);
}
h2 small { font-size: .85rem; font-weight: 400; color: var(--quiet); padding-left: .5rem; }
h3 { font-size: 1rem; margin: 0; }
p { margin: .25rem 0; }
a { color: var(--link); }
code, pre { font: .875em/1.5 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
pre {
  margin: .5rem 0; padding: .6rem .75rem; background: var(--panel); border: 1px solid var(--line);
  border-radius: 4px; white-space: pre-wrap; word-break: break-all;
}
pre span { display: block; padding-left: 10ch; text-indent: -10ch; }
summary { cursor: pointer; color: var(--quiet); font-size: .875rem; padding: .25rem 0; }
.conclusion {
  font-size: 1.15rem; font-weight: 600; padding-left: .75rem; border-left: .3rem solid var(--line);
}
.conclusion.good { border-color: var(--pass); }
.conclusion.bad { border-color: var(--fail-ground); }
.early { margin: .75rem 0; padding: .5rem .75rem; border: 2px solid; border-radius: 4px; font-weight: 600; }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.25rem; margin: 1.25rem 0; }
.facts dt, .quiet { color: var(--quiet); }
.facts dd { margin: 0; }
.quiet { font-size: .875rem; }
.quiet code { font-size: .95em; }
.chips, .cases, .areas { list-style: none; margin: 1rem 0; padding: 0; }
.chips, .areas { display: flex; flex-wrap: wrap; gap: .5rem; }
.areas { gap: .25rem 1rem; font-size: .9rem; }
.chip {
  display: inline-block; padding: .1rem .6rem; border: 1px solid; border-radius: 4px; font-size: .8rem;
  font-weight: 600; white-space: nowrap;
}
.chips .chip { font-size: .95rem; }
.chip.fail { text-transform: uppercase; }
.chip.none { background: none; color: var(--quiet); border-color: var(--line); font-weight: 400; }
.case { display: grid; grid-template-columns: 8.5rem 1fr; gap: 0 1rem; padding: .6rem 0; }
.case + .case { border-top: 1px solid var(--line); }
.failure { margin: 1rem 0; padding: .75rem 1rem; border: 1px solid var(--line); border-radius: 4px; }
.failure { border-left: .3rem solid var(--fail-ground); }
.reason { margin: .4rem 0; }
.left-out code { display: inline-block; }
@media (max-width: 36rem) {
  .case { grid-template-columns: 1fr; gap: .25rem; }
  pre span { padding-left: 2ch; text-indent: -2ch; }
}
@page { margin: 15mm; }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  .chip { background: none !important; color: inherit !important; }
  .case, h2, h3 { break-inside: avoid; break-after: avoid-page; }
  .case { break-after: auto; }
  .areas, details:not([open]) { display: none; }
}
"""


def page(record: Record) -> str:
    """Return the page: a summary, the failures, the cases that were not judged, and then every case.

    Parameters
    ----------
    record
        The record of a run.

    Returns
    -------
    str
        HTML, which has to be written as UTF-8.
    """
    failed = [result for result in record.results if result.verdict is Verdict.FAIL]
    title = f"Conformance of {_text(record.server)}"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{_STYLE}{_verdict_styles()}</style>
</head>
<body>
<header>
<h1>{title} <br>to the DISCOS backend protocol</h1>
{_summary(record, bool(failed))}
</header>
<main>
{_failures(record, failed)}
{_left_out(record)}
{_lines(_area(record, area, results) for area, results in areas(record).items())}
</main>
</body>
</html>
"""


def _lines(parts: Iterable[str]) -> str:
    return "\n".join(parts)


def _text(text: str) -> str:
    """Return the text for HTML, without control characters, which browsers would treat differently."""
    return escape(printable(text))


def _prose(text: str) -> str:
    """Return the text for HTML, with code marked as such."""
    parts = _TYPED.split(text)
    # The parts with odd numbers are the matches of the pattern.
    return "".join(
        f"<code>{_text(part.strip('`'))}</code>" if number % 2 else _text(part) for number, part in enumerate(parts)
    )


def _style_of(verdict: Verdict) -> str:
    return verdict.name.lower().replace("_", "-")


def _verdict_styles() -> str:
    names = map(_style_of, Verdict)
    return _lines(f".{name} {{ color: var(--{name}); background: var(--{name}-ground); }}" for name in names)


def _chip(verdict: Verdict, number: int | None = None) -> str:
    style = "none" if number == 0 else _style_of(verdict)
    text = verdict.value if number is None else f"{number} {verdict.value}"
    return f'<span class="chip {style}">{text}</span>'


def _summary(record: Record, failed: bool) -> str:
    passed = record.tried and not record.ended_early and not record.missing
    tone = "bad" if failed else "good" if passed else ""
    early = f'<p class="early">Ended early: {_text(record.ended_early)}</p>' if record.ended_early else ""
    chips = (f"<li>{_chip(verdict, record.count(verdict))}</li>" for verdict in MEANINGS)
    meanings = (f"<dt>{verdict.value}</dt><dd>{meaning}</dd>" for verdict, meaning in MEANINGS.items())
    links = (_link(area, results) for area, results in areas(record).items())
    entries = (f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in facts(record).items())
    return f"""<p class="conclusion {tone}">{_text(conclusion(record))}</p>
{early}
<ul class="chips">
{_lines(chips)}
</ul>
<details>
<summary>What these words mean</summary>
<dl class="facts">
{_lines(meanings)}
</dl>
</details>
<dl class="facts">
{_lines(entries)}
</dl>
<nav aria-label="Areas">
<ul class="areas">
{_lines(links)}
</ul>
</nav>"""


def _link(area: str, results: list[Result]) -> str:
    failed = sum(result.verdict is Verdict.FAIL for result in results)
    return f'<li><a href="#{_text(area)}">{_text(area)}</a>{f" <b>{failed} fail</b>" if failed else ""}</li>'


def _failures(record: Record, failed: list[Result]) -> str:
    if not failed:
        return ""
    return f"""<section>
<h2>What failed</h2>
{_lines(_failure(record, result) for result in failed)}
</section>"""


def _failure(record: Record, result: Result) -> str:
    case_id = _text(result.case.id)
    said = blocked = ""
    if names := [f"<code>{_text(other.case.id)}</code>" for other in blocked_by(record, result)]:
        blocked = (
            f'<p class="left-out">Cases that could not be judged because of this ({len(names)}): {", ".join(names)}</p>'
        )
    if result.conversation:
        said = f'<p class="quiet">Last lines of the conversation:</p>\n{_said(result.conversation)}'
    return f"""<article class="failure" id="failed:{case_id}">
<h3>{_chip(result.verdict)} {_text(result.case.title)}</h3>
{_details(result)}
{_reasons(result)}
<p>{_prose(requirement(result))}</p>
{blocked}
{said}
{_transcript(result) if result.transcript != result.conversation else ""}
</article>"""


def _left_out(record: Record) -> str:
    groups = (
        f'<p class="left-out">{_text(reason)} ({len(results)}): '
        + ", ".join(f"<code>{_text(result.case.id)}</code>" for result in results)
        + "</p>"
        for reason, results in left_out(record).items()
    )
    text = _lines(groups)
    return f"<section>\n<h2>What was not judged, and why</h2>\n{text}\n</section>" if text else ""


def _area(record: Record, area: str, results: list[Result]) -> str:
    return f"""<section>
<h2 id="{_text(area)}">{_text(area)} <small>{counts(results)}</small></h2>
<ul class="cases">
{_lines(_case(record, result) for result in results)}
</ul>
</section>"""


def _case(record: Record, result: Result) -> str:
    case_id = _text(result.case.id)
    if result.verdict is Verdict.FAIL:
        transcript = f'<p><a href="#failed:{case_id}">Transcript</a></p>'
    else:
        transcript = _transcript(result)
    return f"""<li class="case" id="{case_id}">
<div>{_chip(result.verdict)}</div>
<div>
<h3>{_text(result.case.title)}</h3>
{_details(result)}
<p>{_prose(requirement(result))}</p>
{_blocked(record, result)}
{_reasons(result)}
{transcript}
</div>
</li>"""


def _details(result: Result) -> str:
    level, took = LEVELS[result.case.level], f"{result.seconds:.2f}&nbsp;s"
    return f'<p class="quiet"><code>{_text(result.case.id)}</code> · {level} · {took}</p>'


def _blocked(record: Record, result: Result) -> str:
    if all(other.case.id != result.blocked_by for other in record.results):
        return ""
    case_id = _text(result.blocked_by)
    return f'<p class="reason">Blocked by <a href="#{case_id}">{case_id}</a></p>'


def _reasons(result: Result) -> str:
    # The reason "blocked by ..." is shown as a link by _blocked().
    reasons = [reason for reason in result.reasons if not result.blocked_by or reason != result.why_not_judged]
    return _lines(f'<p class="reason">{_prose(reason)}</p>' for reason in reasons)


def _said(lines: str) -> str:
    # Each line contains its line end, so that copied text, or a page without its style, still has separate lines.
    spans = (f"<span>{_text(line)}\n</span>" for line in lines.splitlines())
    return f"<pre>{''.join(spans)}</pre>"


def _transcript(result: Result) -> str:
    if not result.transcript:
        return ""
    return f"<details>\n<summary>Transcript</summary>\n{_said(result.transcript)}\n</details>"
