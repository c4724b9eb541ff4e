"""What the report looks like and how it answers the pointer: nothing here depends on a run."""

STYLE = """
:root { color-scheme: light dark; --page: #faf9f6; --card: #ffffff; --ink: #1f2328; --soft: #686f78;
  --rule: #e4e1da; --accent: #1d4fc4; }
@media (prefers-color-scheme: dark) { :root { --page: #14161a; --card: #1d2026; --ink: #e8e6e1;
  --soft: #9aa1ab; --rule: #30343c; --accent: #86a9ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 36px 20px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -.015em;
  overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 44px 0 12px; letter-spacing: -.005em; }
p { margin: 6px 0; } .soft { color: var(--soft); }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 12px;
  padding: 16px; }
.hero { display: grid; grid-template-columns: minmax(0, 380px) minmax(0, 1fr); gap: 20px;
  margin-top: 24px; align-items: start; }
.hero.plain { grid-template-columns: minmax(0, 1fr); }
.pair { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 20px; }
@media (max-width: 760px) { .hero, .pair { grid-template-columns: minmax(0, 1fr); } }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(118px, 1fr)); gap: 12px;
  margin-bottom: 16px; }
.tile { background: var(--card); border: 1px solid var(--rule); border-radius: 12px;
  padding: 12px 14px; }
.tile b { display: block; font-size: 19px; font-weight: 650;
  letter-spacing: -.02em; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 13px; }
.orbit { padding: 0; overflow: hidden; }
.orbit canvas { display: block; width: 100%; cursor: grab; touch-action: pan-y; background: #fff; }
.orbit canvas:active { cursor: grabbing; }
.orbit canvas:focus-visible { outline: 3px solid var(--accent); outline-offset: -3px; }
.orbit p { margin: 0; padding: 8px 14px; font-size: 13px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 5px 12px 5px 0; border-bottom: 1px solid var(--rule);
  vertical-align: top; overflow-wrap: anywhere; }
tr:last-child > * { border-bottom: 0; }
table.facts th { font-weight: 400; color: var(--soft); width: 38%; }
th.number, td.number { text-align: right; padding-right: 0; padding-left: 12px;
  white-space: nowrap; }
tr.mean > * { font-weight: 650; border-top: 2px solid var(--rule); }
.scroll { overflow-x: auto; }
.chart { display: block; width: 100%; height: auto; }
.chart .grid { stroke: var(--rule); stroke-width: 1; }
.chart .label { fill: var(--soft); font-size: 12px; }
.chart .line { fill: none; stroke: var(--accent); stroke-width: 2; stroke-linejoin: round; }
.chart .faint { stroke: var(--soft); stroke-width: 1; opacity: .35; }
.chart .dot { fill: var(--accent); stroke: var(--card); stroke-width: 1.5; }
.caption { display: flex; justify-content: space-between; gap: 12px; margin-bottom: 8px; }
.caption output { color: var(--soft); font-size: 13px; font-variant-numeric: tabular-nums; }
figure { margin: 0 0 22px; }
figure .row { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 8px; }
figure img { display: block; width: 100%; height: auto; border-radius: 8px;
  border: 1px solid var(--rule); }
figcaption { display: flex; justify-content: space-between; gap: 12px; margin-bottom: 6px; }
figure small, .legend { color: var(--soft); font-size: 13px; }
.legend { display: flex; align-items: center; gap: 10px; margin: 0 0 16px; flex-wrap: wrap; }
.legend img { width: 180px; height: 12px; border-radius: 3px; border: 1px solid var(--rule); }
ul { margin: 6px 0; padding-left: 20px; }
"""

SCRIPT = """
for (const canvas of document.querySelectorAll("canvas.turn")) {
  const d = canvas.dataset, n = +d.frames, pen = canvas.getContext("2d"), sheet = new Image();
  let at = 0, held = null, touched = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const show = () => {
    const k = ((Math.round(at) % n) + n) % n;
    pen.drawImage(sheet, k % +d.columns * +d.cellWidth, Math.floor(k / +d.columns) * +d.cellHeight,
      canvas.width, canvas.height, 0, 0, canvas.width, canvas.height);
    canvas.setAttribute("aria-valuenow", k + 1);
  };
  sheet.onload = () => { show(); requestAnimationFrame(spin); };
  sheet.src = d.sheet;
  let before = null;
  const spin = now => {
    if (touched) return;
    if (before !== null) at += (now - before) / 12000 * n;
    before = now; show(); requestAnimationFrame(spin);
  };
  canvas.addEventListener("pointerdown", e => {
    touched = true; held = { x: e.clientX, at }; canvas.setPointerCapture(e.pointerId);
  });
  canvas.addEventListener("pointermove", e => {
    if (held === null) return;
    at = held.at - (e.clientX - held.x) / canvas.clientWidth * n; show();
  });
  for (const end of ["pointerup", "pointercancel"])
    canvas.addEventListener(end, () => { held = null; });
  canvas.addEventListener("keydown", e => {
    const step = { ArrowRight: 1, ArrowUp: 1, PageUp: 6,
      ArrowLeft: -1, ArrowDown: -1, PageDown: -6 };
    if (e.key in step) at = Math.round(at) + step[e.key];
    else if (e.key === "Home") at = 0;
    else if (e.key === "End") at = n - 1;
    else return;
    touched = true; e.preventDefault(); show();
  });
}
for (const chart of document.querySelectorAll("svg.chart")) {
  const series = chart.querySelector(".series"), out = chart.parentNode.querySelector("output");
  if (!series || !out) continue;
  const points = series.dataset.points.split(" ").map(p => p.split(","));
  const dot = series.querySelector(".dot"), rest = out.textContent;
  const put = p => { dot.setAttribute("cx", p[0]); dot.setAttribute("cy", p[1]); };
  chart.addEventListener("pointermove", e => {
    const box = chart.getBoundingClientRect();
    const x = (e.clientX - box.left) / box.width * chart.viewBox.baseVal.width;
    const p = points.reduce((a, b) => Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a);
    put(p); out.textContent = series.dataset.label + " " + p[3] + " at step " + p[2];
  });
  chart.addEventListener("pointerleave", () => {
    put(points[points.length - 1]); out.textContent = rest;
  });
}
"""
