"""The look of report.html: one template and its style, for screens, phones, dark rooms, paper."""

from string import Template

PAGE = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1c2329; --soft: #5b6771; --line: #dde3e8; --block: #f5f7f9;
  --accent: #00664a; --warn: #9a4b00;
}
@media (prefers-color-scheme: dark) {
  :root { --paper: #15191d; --ink: #e6eaed; --soft: #9aa7b2; --line: #323a42; --block: #1e242a;
    --accent: #5fd3ab; --warn: #ffb169; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 66rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.8rem 0 .5rem; padding-top: 1rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
p { margin: .5rem 0; }
.soft { color: var(--soft); font-size: .9rem; }
.status { display: inline-block; font-size: .85rem; font-weight: 600; padding: .1rem .6rem;
  border-radius: 1rem; border: 1px solid currentColor; color: var(--warn); vertical-align: .25em;
  margin-left: .5rem; }
.status.complete { color: var(--accent); }
.warn { color: var(--warn); }
.score { font-size: 1.35rem; font-weight: 600; margin: 1.2rem 0 .2rem; }
.scroll { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem .3rem 0; text-align: left; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { font-weight: 600; color: var(--soft); vertical-align: bottom; }
.n { text-align: right; }
td.n { white-space: nowrap; }
tr.own td { font-weight: 600; }
figure { margin: 1rem 0; max-width: 100%; overflow-x: auto; background: #fff; border-radius: 6px;
  border: 1px solid var(--line); }
img { display: block; width: 100%; height: auto; padding: .5rem; }
pre { background: var(--block); border: 1px solid var(--line); border-radius: 6px; padding: .8rem;
  overflow-x: auto; font: .82rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre.wrap { white-space: pre-wrap; overflow-wrap: anywhere; }
code { font: .88em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
details { margin: .8rem 0; }
summary { cursor: pointer; color: var(--soft); }
@media print {
  main { max-width: none; padding: 0; }
  h2, h3 { break-after: avoid; }
  figure, tr, pre { break-inside: avoid; }
  pre { white-space: pre-wrap; }
}
</style>
</head>
<body><main>
$body
</main></body>
</html>
""")
