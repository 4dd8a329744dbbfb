"""The style sheet of report pages: light and dark, on screens and on paper."""

STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #1c2024; --soft: #5c656e; --line: #d5dae0; --band: #f4f6f8;
  --mark: #1560b8; --note: #fff6dd; --edge: #d9a514; }
@media (prefers-color-scheme: dark) { :root { --page: #15181c; --text: #e4e7ea; --soft: #9aa4ae; --line: #363d45;
  --band: #1e2329; --mark: #6db1ff; --note: #2b2618; --edge: #b98d1c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem clamp(1rem, 3vw, 2.5rem) 3rem; max-width: 100rem; background: var(--page);
  color: var(--text); font: 1rem/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .6rem; }
h1, h2, dd, li, th, figcaption { overflow-wrap: anywhere; }
.verdict { font-size: 1.15rem; margin: 0 0 1rem; }
p, .notes, .text { max-width: 50rem; margin: .4rem 0; }
small, .soft, footer { color: var(--soft); font-size: .82rem; font-weight: 400; }
dl { margin: 0; max-width: 62rem; display: grid; grid-template-columns: fit-content(12rem) 1fr; gap: .3rem 1.2rem; }
dt { color: var(--soft); } dd { margin: 0; }
.definitions dt { color: inherit; font-weight: 600; } .definitions small { display: block; }
.notes { background: var(--note); border-left: 4px solid var(--edge); padding: .7rem 1rem; margin: 1.2rem 0; }
ul { margin: .4rem 0; padding-left: 1.2rem; } .notes ul { margin: 0; } nav a { margin-right: 1rem; }
nav { margin-top: 1rem; } a { color: var(--mark); }
.box { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; }
th { text-align: left; font-weight: 600; }
th[scope=row] { position: sticky; left: 0; background: var(--page); z-index: 1; }
.numbers th, .numbers td { padding: .4rem .9rem; border-bottom: 1px solid var(--line); vertical-align: top; }
.numbers thead > tr > * { border-bottom-width: 2px; vertical-align: bottom; min-width: 7rem; max-width: 14rem;
  overflow-wrap: break-word; }
.numbers th[scope=row] { padding-left: .2rem; min-width: 8.5rem; max-width: min(20rem, 40vw); }
.numbers small { display: block; }
.numbers tr:not(.baseline) + .baseline > * { border-top: 2px solid var(--line); }
td { font-variant-numeric: tabular-nums; } .numbers td { white-space: nowrap; } .baseline { color: var(--soft); }
b { font-weight: 750; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 27rem), 1fr)); gap: 1.2rem; }
.plots figure { margin: 0; padding: .8rem 1rem; background: var(--band); border-radius: 6px; break-inside: avoid; }
.plots { margin-top: 1.2rem; } .plots figcaption { font-weight: 600; margin-bottom: .5rem; }
.plot { display: grid; grid-template-columns: fit-content(40%) minmax(6rem, 1fr) max-content; column-gap: .8rem;
  font-size: .88rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.plot > * { padding: .3rem 0; align-content: center; overflow-wrap: anywhere; }
.plot > .track { position: relative; padding: 0; }
svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible; }
.tick { stroke: var(--line); } .whisker { stroke: var(--mark); stroke-width: 2; }
circle { fill: var(--mark); stroke: var(--mark); stroke-width: 2; } text { fill: var(--soft); font-size: .75rem; }
rect { fill: var(--mark); transform: translate(-1px, -5px); } .baseline rect { fill: var(--soft); }
.baseline .whisker, .baseline circle { stroke: var(--soft); } .baseline circle { fill: var(--band); }
.images th, .images td { padding: .25rem; vertical-align: top; font-size: .85rem; }
.images th[scope=col] { vertical-align: bottom; } .images th[scope=row] { min-width: 4rem; max-width: 9rem; }
.images { --room: clamp(7rem, (min(100vw, 100rem) - var(--beside)) / var(--columns) - .5rem, 16rem); }
img { width: auto; height: auto; }
img, .none { display: block; max-width: var(--room); max-height: var(--room); border-radius: 3px; }
.none { width: var(--room); padding: 2rem 0; border: 1px dashed var(--line); text-align: center; color: var(--soft); }
.images small { display: block; max-width: var(--room); line-height: 1.3; overflow-wrap: anywhere; }
@media (max-width: 40rem) { dl { display: block; } dd { margin-bottom: .5rem; }
  .images th[scope=row] { min-width: 3rem; max-width: 5.5rem; } }
@media print { :root { font-size: 11px; color-scheme: light; --page: #fff; --text: #000; --soft: #444; --line: #bbb;
  --band: #fff; --mark: #1560b8; --note: #fff; }
  body { padding: 0; } nav { display: none; } .box { overflow: visible; } th[scope=row] { position: static; }
  .images { --room: calc((100vw - 6rem) / var(--columns) - .5rem); } tr { break-inside: avoid; }
  h2, .text { break-after: avoid; } svg, .notes { print-color-adjust: exact; } }
"""
