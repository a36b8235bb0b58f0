"""The style of a report: light, dark, on a phone, on paper."""

STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1c2430; --soft: #5b6675; --rule: #d9dee5; --card: #f5f7fa;
  --c0: #0072b2; --c1: #c2500a; --c2: #008a63; --c3: #b0578f; --c4: #a86f00; --c5: #2b8fc7; --c6: #555;
  --right: 0 114 178; --wrong: 213 94 0; }
@media screen and (prefers-color-scheme: dark) {
  :root { --back: #14181f; --text: #e4e8ee; --soft: #9aa5b4; --rule: #343c48; --card: #1c222b;
    --c0: #4da3e0; --c1: #f08c4f; --c2: #35c79a; --c3: #de94c2; --c4: #e8b040; --c5: #8accf5; --c6: #bbb;
    --right: 77 163 224; --wrong: 240 140 79; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1.25rem 3rem; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p { margin: .5rem 0; max-width: 46rem; } .soft, caption, figcaption { color: var(--soft); }
.note { border-left: 4px solid var(--c4); background: var(--card); padding: .5rem .75rem; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem; margin: 1.25rem 0; }
.tiles div { background: var(--card); border: 1px solid var(--rule); border-radius: .5rem; padding: .7rem .9rem; }
.tiles b { display: block; font-size: 1.6rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tiles span { color: var(--soft); font-size: .875rem; display: block; }
dl { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr; gap: .35rem 1.25rem; margin: 0; }
table + dl, .wide + dl { margin-top: 1rem; } dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
figure { margin: 0; min-width: 0; } figcaption, caption { font-size: .875rem; text-align: left; padding-bottom: .3rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1.5rem; }
.chart { width: 100%; max-width: 36rem; height: auto; display: block; }
svg text { fill: var(--soft); font: 15px system-ui, sans-serif; } .grid { stroke: var(--rule); fill: none; }
.line { stroke: var(--own); fill: none; stroke-width: 2; stroke-linejoin: round; }
.sample { width: 26px; height: 8px; margin-right: .4rem; }
.dot, .column { fill: var(--own); } .c0 { --own: var(--c0); } .c1 { --own: var(--c1); } .c2 { --own: var(--c2); }
.c3 { --own: var(--c3); } .c4 { --own: var(--c4); } .c5 { --own: var(--c5); } .c6 { --own: var(--c6); }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; margin: .3rem 0 0; padding: 0;
  font-size: .875rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.plain th, .plain td { padding: .3rem .9rem .3rem 0; text-align: left; border-bottom: 1px solid var(--rule); }
.plain { width: 100%; max-width: 46rem; } th { font-weight: 600; } .plain thead th { color: var(--soft); }
.confusion td, .confusion th { padding: .3rem; text-align: center; min-width: 2.3rem; font-size: .875rem; }
.confusion tbody th { text-align: right; white-space: nowrap; max-width: 10rem; overflow: hidden;
  text-overflow: ellipsis; position: sticky; left: 0; background: var(--back); }
.confusion thead th { vertical-align: bottom; } .confusion thead span { display: inline-block; max-height: 9rem;
  overflow: hidden; } .upright thead span { writing-mode: vertical-rl; transform: rotate(180deg); }
.confusion tbody td { border: 1px solid var(--rule); }
.confusion .right { background: rgb(var(--right) / calc(.08 + .55 * var(--part))); }
.confusion .wrong { background: rgb(var(--wrong) / min(1, calc(3 * var(--part)))); }
.bar { min-width: 8.1rem; white-space: nowrap; } .track { display: inline-block; width: 5.5rem; height: .6rem;
  background: var(--card); border: 1px solid var(--rule); border-radius: 2px; margin-right: .5rem; overflow: hidden; }
.track span { display: block; height: 100%; } .teacher { background: var(--c1); } .student { background: var(--c0); }
.examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); gap: .75rem; }
.examples figure { background: var(--card); border: 1px solid var(--rule); border-radius: .5rem; padding: .6rem;
  font-size: .875rem; overflow-wrap: anywhere; }
.examples img { width: 96px; height: 96px; object-fit: contain; display: block; margin: 0 auto .4rem;
  image-rendering: pixelated; background: #8883; }
.examples figcaption { color: var(--text); } .examples span { display: block; }
pre { background: var(--card); border: 1px solid var(--rule); border-radius: .5rem; padding: .75rem 1rem;
  overflow-x: auto; font: .875rem/1.5 ui-monospace, Menlo, Consolas, monospace; }
footer { margin-top: 3rem; color: var(--soft); font-size: .875rem; overflow-wrap: anywhere; }
@media (max-width: 34rem) { .track { width: 3rem; } .bar { min-width: 5.5rem; }
  .plain th, .plain td { padding-right: .5rem; font-size: .9rem; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .5rem; }
  .examples { grid-template-columns: repeat(2, 1fr); } .tiles { grid-template-columns: repeat(2, 1fr); } }
@media print { body { max-width: none; padding: 0; font-size: 11pt; }
  figure, .tiles div, tr, pre { break-inside: avoid; } h2, h3 { break-after: avoid; } .wide { overflow: visible; }
  pre { white-space: pre-wrap; } * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
