"""The style sheet of the report: one column on a phone, several on a large screen, light and dark."""

CSS = """
:root { color-scheme: light dark; --page: #f4f5f7; --card: #fff; --ink: #16191f; --soft: #5c6470; --line: #dfe2e7; --link: #1857c4;
  --good: #17703a; --good-bg: #e0f3e6; --bad: #a8261c; --bad-bg: #fce8e5; --warn: #7a5200; --warn-bg: #fff4d9; --warn-line: #ecd193;
  --l: #5f6773; --r: #d2362b; --g: #2a8c3c; --b: #2b62d9; --ha: #b01373; --o3: #0b8a8f; --s2: #b76a00; --u: #7a3fd0; --z: #6d4a33; --x: #444b57 }
@media (prefers-color-scheme: dark) { :root { --page: #0d1015; --card: #161a21; --ink: #e7eaf0; --soft: #98a1af; --line: #2a303a; --link: #7fb0ff;
  --good: #7fd89a; --good-bg: #12301d; --bad: #ff978b; --bad-bg: #3a1713; --warn: #f3cf7a; --warn-bg: #2c2410; --warn-line: #5a4a1c;
  --l: #b9c1cd; --r: #ff6b5e; --g: #5ccc72; --b: #7ba4ff; --ha: #ff6fbb; --o3: #3fd0d4; --s2: #f0a63c; --u: #b98cff; --z: #c79b7d; --x: #aeb6c2 } }
* { box-sizing: border-box }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100% }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif }
main, header > div, footer { max-width: 1440px; margin: 0 auto; padding: 0 clamp(14px, 3vw, 36px) }
header { padding: 26px 0 0 }
h1 { font-size: clamp(1.6rem, 4.5vw, 2.5rem); line-height: 1.15; letter-spacing: -.02em; margin: 0; overflow-wrap: anywhere }
header .night { color: var(--soft); margin: .3em 0 0 }
h2 { font-size: 1.3rem; letter-spacing: -.01em; margin: 2.6rem 0 .9rem }
h3 { font-size: 1rem; margin: 0 0 .4rem }
a { color: var(--link); text-decoration-thickness: 1px; text-underline-offset: 2px }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 1rem 0 0; font-size: .92rem }
nav a { text-decoration: none }
nav a:hover { text-decoration: underline }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(132px, 1fr)); gap: 1px; background: var(--line); border: 1px solid var(--line);
  border-radius: 12px; overflow: hidden; margin: 1.3rem 0 0 }
.facts div { background: var(--card); padding: 11px 15px }
.facts b { display: block; font-size: 1.35rem; font-weight: 640; letter-spacing: -.01em; line-height: 1.2; font-variant-numeric: tabular-nums }
.facts span { color: var(--soft); font-size: .82rem }
.warnings { background: var(--warn-bg); border: 1px solid var(--warn-line); border-radius: 12px; padding: 12px 18px; margin: 1.1rem 0 0 }
.warnings h2 { margin: 0; font-size: 1rem; color: var(--warn) }
.warnings ul { margin: .35rem 0 0; padding-left: 1.15rem }
.warnings li { overflow-wrap: anywhere }
#detector .grid { margin-top: 16px }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; overflow: hidden; min-width: 0 }
.hero { margin-bottom: 16px }
.hero figure:only-child { max-width: 980px }
.hero > div { display: grid; gap: 16px }
.grid, .plots { display: grid; gap: 16px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)) }
.hero { grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); align-items: start }
@media (min-width: 900px) { .hero.one { grid-template-columns: 2.05fr 1fr } }
.squares { margin-bottom: 16px; max-width: 940px }
.squares p { margin: .5rem 0; font-size: .85rem }
.small { grid-template-columns: repeat(auto-fill, minmax(min(100%, 210px), 1fr)) }
.strip { display: grid; gap: 12px; grid-template-columns: repeat(auto-fill, minmax(min(46%, 178px), 1fr)) }
figure { margin: 0 }
figure img { display: block; width: 100%; height: auto; background: #05070a }
.strip img, .small img { aspect-ratio: 1; object-fit: cover }
.none { display: grid; place-items: center; aspect-ratio: 1; color: var(--soft); background: var(--page); font-size: .85rem }
figcaption { padding: 10px 13px 12px; font-size: .88rem; overflow-wrap: anywhere }
figcaption b { font-size: .98rem }
.strip figcaption { padding: 8px 10px 10px; font-size: .8rem; line-height: 1.4 }
.strip.dense { gap: 8px; grid-template-columns: repeat(auto-fill, minmax(min(30%, 112px), 1fr)) }
.dense figcaption { font-size: .72rem; padding: 6px 7px 7px }
.soft { color: var(--soft) }
.strip .card:target { outline: 3px solid var(--link); outline-offset: 1px }
.rejected img { filter: brightness(.6) }
.pill { display: inline-block; border-radius: 99px; padding: 0 8px; font-size: .76rem; font-weight: 600; line-height: 1.65 }
.accept { color: var(--good); background: var(--good-bg) }
.reject { color: var(--bad); background: var(--bad-bg) }
.filter { font-weight: 650 }
.plots .card { padding: 12px 12px 4px }
.plots h3 span { color: var(--soft); font-weight: 400 }
svg.plot { display: block; width: 100%; height: auto }
svg .grid { stroke: var(--line); stroke-width: 1 }
svg .tick { fill: var(--soft); font-size: 11.5px; font-variant-numeric: tabular-nums }
svg .join { fill: none; stroke: currentColor; stroke-width: 1.5; opacity: .45 }
svg .dot { fill: currentColor; stroke: var(--card); stroke-width: 1.3 }
svg .cross { fill: none; stroke: currentColor; stroke-width: 2 }
svg .touch { fill: transparent }
svg .arrow { stroke: var(--link); stroke-width: 1.6 }
svg .tip { fill: var(--soft) }
svg .star { fill: var(--link); opacity: .45 }
svg .half { fill: none; stroke: var(--bad); stroke-width: 1.6 }
svg path.grid { fill: none }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 0 0 .8rem; font-size: .88rem; color: var(--soft) }
.legend svg { width: 12px; height: 12px; margin-right: 5px; vertical-align: -1px }
.f-l { color: var(--l) } .f-r { color: var(--r) } .f-g { color: var(--g) } .f-b { color: var(--b) } .f-ha { color: var(--ha) }
.f-o3 { color: var(--o3) } .f-s2 { color: var(--s2) } .f-u { color: var(--u) } .f-z { color: var(--z) } .f-x { color: var(--x) }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 12px; -webkit-overflow-scrolling: touch }
table { border-collapse: collapse; width: 100%; font-size: .86rem; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: 6px 12px; border-bottom: 1px solid var(--line); vertical-align: top }
tr:last-child td { border-bottom: 0 }
th { color: var(--soft); font-weight: 550; white-space: nowrap }
td.n, th.n { text-align: right; white-space: nowrap }
td.w { min-width: 190px; overflow-wrap: anywhere }
td.name { white-space: nowrap }
details { margin: 0 0 12px }
summary { cursor: pointer; padding: 4px 0; font-weight: 550 }
footer { color: var(--soft); font-size: .85rem; padding-top: 2.4rem; padding-bottom: 2.4rem }
@media (max-width: 560px) { th, td { padding: 5px 9px } .facts { grid-template-columns: 1fr 1fr } .facts div { padding: 9px 13px } h2 { margin-top: 2rem } }
@media print { body { background: #fff } .card, .scroll { break-inside: avoid } nav { display: none } }
"""
