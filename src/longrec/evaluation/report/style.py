"""The report's style sheet: light and dark by the reader's choice, ink on white in print."""

CSS = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5d6876; --line: #dfe3e8;
  --page: #f6f7f9; --card: #ffffff; --accent: #2f6fb0; --warn: #a85b00; --tint: #eef3f9; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --soft: #9aa5b4; --line: #323a46;
  --page: #14181e; --card: #1c222b; --accent: #7db4ea; --warn: #f0a94f; --tint: #232c38; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.5;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
header { border-bottom: 3px solid var(--accent); margin-bottom: 1.5rem; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 .75rem; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; margin: 0 0 .9rem; }
h3 { font-size: 1rem; margin: 1.1rem 0 .5rem; }
h1, h3, th, td, dd, li { overflow-wrap: anywhere; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 1.25rem 1.4rem; margin: 0 0 1.25rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .42rem .7rem; border-bottom: 1px solid var(--line);
  vertical-align: top; font-weight: 400; }
thead th { color: var(--soft); font-size: .8rem; vertical-align: bottom; border-bottom-width: 2px;
  font-weight: 600; }
tbody th[scope=row] { font-weight: 600; min-width: 8.5rem; }
tbody tr:last-child > * { border-bottom: 0; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
thead .number { white-space: normal; overflow-wrap: normal; }
.dense th, .dense td { padding-left: .35rem; padding-right: .35rem; font-size: .82rem; }
.dense tbody th[scope=row] { min-width: 6rem; }
.dense .interval { font-size: .68rem; }
.rank { color: var(--soft); width: 2rem; font-variant-numeric: tabular-nums; }
.interval { display: block; color: var(--soft); font-size: .74rem; font-weight: 400; }
.badge { display: inline-block; font-size: .7rem; font-weight: 600; padding: 0 .45em;
  border-radius: 1em; color: var(--soft); border: 1px solid var(--line); white-space: nowrap; }
.warn { color: var(--warn); border-color: currentColor; }
.limits th, .limits td { background: var(--tint); }
.limits th[scope=rowgroup] { color: var(--soft); font-size: .8rem; font-weight: 600;
  border-top: 2px solid var(--line); }
.note { color: var(--soft); font-size: .85rem; margin: .7rem 0 .4rem; }
.protocol { margin: .9rem 0 0; max-width: 78ch; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 470px), 1fr));
  gap: 1.5rem 2rem; }
.figures h2 { grid-column: 1 / -1; margin: 0; }
figure { margin: 0; }
.wide { grid-column: 1 / -1; }
details { margin: .6rem 0 0; }
summary { cursor: pointer; color: var(--soft); font-size: .85rem; }
figure svg { width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: .85rem; margin-top: .35rem; }
.user + .user { border-top: 1px solid var(--line); margin-top: 1.4rem; padding-top: .3rem; }
.chips { list-style: none; display: flex; flex-wrap: wrap; gap: .35rem; padding: 0;
  margin: 0 0 .8rem; }
.chips li { background: var(--tint); border-radius: 5px; padding: .1rem .55rem; font-size: .83rem; }
.score { color: var(--soft); font-size: .76rem; margin-left: .6em;
  font-variant-numeric: tabular-nums; }
.lists { width: auto; min-width: 50%; }
dl { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .35rem 1.4rem;
  margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; white-space: pre-wrap; font-family: ui-monospace, "DejaVu Sans Mono", monospace;
  font-size: .84rem; }
@media print {
  :root { color-scheme: light; --ink: #000; --soft: #444; --line: #bbb; --page: #fff;
    --card: #fff; --accent: #000; --warn: #844a00; --tint: #f2f2f2; }
  body { font-size: 10pt; }
  main { max-width: none; padding: 0; }
  section { border: 0; border-radius: 0; padding: 0; margin-bottom: 1.6rem; }
  figure, tr, .user { break-inside: avoid; }
  h2, h3, .note:not(:last-child) { break-after: avoid; }
  .figures { grid-template-columns: 1fr 1fr; gap: 1rem; }
  .scroll { overflow: visible; }
  th, td { padding: .25rem .4rem; }
}
"""
