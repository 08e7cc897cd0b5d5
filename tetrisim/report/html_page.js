/* Draws the charts of a report from the JSON in the page. Text from the data only ever becomes text nodes. */
"use strict";
window.addEventListener("error", event => { document.documentElement.dataset.error = event.message; });

const NS = document.getElementById("patterns").namespaceURI;
const DATA = JSON.parse(document.getElementById("data").textContent);
const GREY = "#d1d1d1";

// ---- small helpers ----
function el(name, attributes, parent, text) {
  const node = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}
function html(name, className, parent, text) {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}
const full = new Intl.NumberFormat("en", {maximumSignificantDigits: 4});
const short = new Intl.NumberFormat("en", {maximumSignificantDigits: 3, notation: "compact"});
const exists = value => value !== null && value !== undefined && Number.isFinite(value);
const say = (value, unit) => exists(value) ? full.format(value) + (unit ? " " + unit : "") : "–";
const ink = colour => colour === "#000000" ? "currentColor" : colour;

/** The paint of an area: its colour, or a hatch of it, so that areas are told apart without colour. */
function paint(colour, hatch) {
  if (!hatch) return colour;
  const id = "hatch-" + colour.slice(1) + (hatch === "////" ? "l" : "d");
  if (!document.getElementById(id)) {
    const pattern = el("pattern", {id, width: 6, height: 6, patternUnits: "userSpaceOnUse"}, document.getElementById("patterns"));
    el("rect", {width: 6, height: 6, fill: colour}, pattern);
    if (hatch === "////") el("path", {d: "M-1 1L1 -1M0 6L6 0M5 7L7 5", stroke: "#fff", "stroke-width": 1.1}, pattern);
    else el("circle", {cx: 3, cy: 3, r: 1.1, fill: "#fff"}, pattern);
  }
  return "url(#" + id + ")";
}

// ---- scales ----
function scale(low, high, from, to, log) {
  const f = log ? Math.log10 : value => value;
  const a = f(low), b = f(high) === f(low) ? f(low) + 1 : f(high);
  const at = value => from + (f(value) - a) / (b - a) * (to - from);
  at.invert = place => { const v = a + (place - from) / (to - from) * (b - a); return log ? 10 ** v : v; };
  at.ticks = count => log ? logTicks(low, high, count) : ticks(low, high, count);
  return at;
}
function ticks(low, high, count) {
  const raw = (high - low) / Math.max(1, count) || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find(m => m * power >= raw * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step + 0);
  return found;
}
function logTicks(low, high, count) {
  const every = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) for (const m of [1, 2, 5]) every.push(m * 10 ** e);
  const inside = every.filter(v => v >= low * 0.999 && v <= high * 1.001);
  if (inside.length <= count) return inside.length > 1 ? inside : ticks(low, high, count).filter(v => v > 0);
  const decades = inside.filter(v => Number.isInteger(Math.round(Math.log10(v) * 1e6) / 1e6));
  const each = Math.ceil(decades.length / count);
  return decades.filter((_, i) => i % each === 0);
}

// ---- the tooltip ----
const tip = html("div", "tip", document.body);
function showTip(event, title, rows) {
  tip.replaceChildren();
  if (title) html("b", "", tip, title);
  for (const [name, value, colour, dash] of rows) {
    const line = html("div", "", tip);
    if (colour) swatch(line, colour, dash, true);
    html("span", "name", line, name);
    html("span", "value", line, value);
  }
  tip.style.display = "block";
  const box = tip.getBoundingClientRect();
  const left = event.clientX + 14 + box.width > innerWidth ? event.clientX - box.width - 14 : event.clientX + 14;
  tip.style.left = Math.max(4, left) + scrollX + "px";
  tip.style.top = Math.max(4, Math.min(event.clientY + 12, innerHeight - box.height - 4)) + scrollY + "px";
}
function hideTip() { tip.style.display = "none"; }

/** A sample of a line (`dash` a string) or of an area (`dash` undefined, or a hatch when not a line). */
function swatch(parent, colour, look, line) {
  const svg = el("svg", {width: line ? 26 : 13, height: 11, class: "swatch", "aria-hidden": "true"}, parent);
  if (line) el("line", {x1: 0, x2: 26, y1: 5.5, y2: 5.5, stroke: ink(colour), "stroke-width": 2.4, "stroke-dasharray": look || null}, svg);
  else el("rect", {width: 13, height: 11, rx: 2, fill: paint(colour, look)}, svg);
}
function legend(host, entries, line) {
  const box = html("div", "legend", host);
  for (const [name, colour, look] of entries) {
    const item = html("span", "", box);
    swatch(item, colour, look, line);
    item.append(name);
  }
}

// ---- frames and axes ----
function newSvg(host, height, label) {
  const width = Math.max(240, Math.round(host.getBoundingClientRect().width || 600));
  const svg = el("svg", {viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label}, host);
  return [svg, width];
}
function axes(svg, box, x, y, spec) {
  const {left, right, top, bottom} = box;
  const yTicks = y.ticks(Math.max(2, Math.round((bottom - top) / 45)));
  for (const value of yTicks) {
    el("line", {x1: left, x2: right, y1: y(value), y2: y(value), class: "gridline"}, svg);
    el("text", {x: left - 6, y: y(value) + 4, class: "tick", "text-anchor": "end"}, svg, short.format(value));
  }
  for (const value of spec.x.ticks || x.ticks(Math.max(2, Math.round((right - left) / 75)))) {
    el("line", {x1: x(value), x2: x(value), y1: bottom, y2: bottom + 4, class: "axis"}, svg);
    const name = spec.x.names ? String(spec.x.names[value]) : short.format(value);
    const at = Math.min(x(value), right + 10 - 3.2 * name.length);  // about half its width: a long name stays in its panel
    el("text", {x: at, y: bottom + 17, class: "tick", "text-anchor": "middle"}, svg, name);
  }
  el("line", {x1: left, x2: right, y1: bottom, y2: bottom, class: "axis"}, svg);
  el("text", {x: right, y: bottom + 33, class: "label", "text-anchor": "end"}, svg, spec.x.label + (spec.x.log ? ", log scale" : ""));
  el("text", {x: 0, y: 11, class: "label"}, svg, spec.y.label + (spec.y.log ? ", log scale" : ""));
}
function extent(values, low, high) {
  let a = low ?? Infinity, b = high ?? -Infinity;
  for (const v of values) if (exists(v)) { if (v < a) a = v; if (v > b) b = v; }
  return a <= b ? [a, b] : [0, 1];
}

// ---- lines, and stacked areas ----
function lines(host, spec) {
  const stacked = spec.type === "area";
  const series = stacked ? stack(spec.series) : spec.series;
  if (spec.legend !== false) legend(host, series.map(s => [s.name, s.colour, stacked ? s.hatch : s.dash]), !stacked);
  const height = spec.height || 270;
  const [svg, width] = newSvg(host, height, spec.title);
  const box = {left: 48, right: width - 14, top: 24, bottom: height - 40};
  const xs = [].concat(...series.map(s => s.x), ...(spec.marks || []).map(m => [m.x]));
  const [x0, x1] = extent(xs, spec.x.min, spec.x.max);
  const ys = [].concat(...series.map(s => s.top || s.y), ...series.map(s => s.half ? s.y.map((v, i) => v + s.half[i]) : []), ...(spec.levels || []).map(l => [l.y]));
  const [y0, y1] = extent(ys, spec.y.log ? undefined : spec.y.min ?? 0, spec.y.max);
  const x = scale(x0, x1, box.left, box.right, spec.x.log), y = scale(y0, y1 || 1, box.bottom, box.top, spec.y.log);
  axes(svg, box, x, y, spec);
  for (const s of series) {
    if (stacked) el("path", {d: ribbon(s, x, y), fill: paint(s.colour, s.hatch), class: "area"}, svg);
    else el("path", {d: path(s, x, y, spec.step), stroke: ink(s.colour), "stroke-dasharray": s.dash || null, class: "line"}, svg);
    if (s.half) for (let i = 0; i < s.x.length; i++) if (exists(s.y[i]) && exists(s.half[i]))
      el("line", {x1: x(s.x[i]), x2: x(s.x[i]), y1: y(Math.max(y0, s.y[i] - s.half[i])), y2: y(Math.min(y1, s.y[i] + s.half[i])), stroke: ink(s.colour), "stroke-width": 1.4}, svg);
    if (s.points) for (let i = 0; i < s.x.length; i++) if (exists(s.y[i])) el("circle", {cx: x(s.x[i]), cy: y(s.y[i]), r: 3.2, fill: ink(s.colour)}, svg);
  }
  for (const mark of spec.marks || []) {
    el("line", {x1: x(mark.x), x2: x(mark.x), y1: box.top, y2: box.bottom, class: "mark"}, svg);
    const flip = x(mark.x) > box.right - 40;
    el("text", {x: x(mark.x) + (flip ? -4 : 4), y: box.bottom - 6, class: "note", "text-anchor": flip ? "end" : "start"}, svg, mark.label);
  }
  for (const level of spec.levels || []) {
    el("line", {x1: box.left, x2: box.right, y1: y(level.y), y2: y(level.y), class: "mark"}, svg);
    el("text", {x: box.right, y: y(level.y) - 4, class: "note", "text-anchor": "end"}, svg, level.label);
  }
  hover(svg, box, x, y, spec, spec.series);
}
function stack(series) {
  let base = series.length ? series[0].y.map(() => 0) : [];
  return series.map(s => {
    const top = s.y.map((v, i) => v + base[i]), own = {...s, base, top};
    base = top;
    return own;
  });
}
function path(s, x, y, step) {
  let d = "", pen = false;
  for (let i = 0; i < s.x.length; i++) {
    if (!exists(s.y[i])) { pen = false; continue; }
    const px = x(s.x[i]).toFixed(1), py = y(s.y[i]).toFixed(1);
    d += !pen ? `M${px} ${py}` : step ? `H${px}V${py}` : `L${px} ${py}`;
    pen = true;
  }
  return d;
}
function ribbon(s, x, y) {
  const up = s.x.map((v, i) => `${x(v).toFixed(1)} ${y(s.top[i]).toFixed(1)}`);
  const down = s.x.map((v, i) => `${x(v).toFixed(1)} ${y(s.base[i]).toFixed(1)}`).reverse();
  return "M" + up.concat(down).join("L") + "Z";
}
/** First index whose value is at least `value`; arrays ascend. */
function bisect(values, value) {
  let low = 0, high = values.length - 1;
  while (low < high) { const mid = (low + high) >> 1; if (values[mid] < value) low = mid + 1; else high = mid; }
  return low;
}
function nearest(values, value) {
  const i = bisect(values, value);
  return i > 0 && Math.abs(values[i - 1] - value) < Math.abs(values[i] - value) ? i - 1 : i;
}
function hover(svg, box, x, y, spec, series) {
  const rule = el("line", {class: "rule", visibility: "hidden"}, svg);
  const across = spec.hover === "y";
  const pane = el("rect", {x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top, class: "pane"}, svg);
  track(pane, svg, (event, px, py) => {
    if (across) {
      const share = Math.min(100, Math.max(0, y.invert(py)));
      place(rule, box.left, box.right, py, py);
      showTip(event, `${full.format(Math.round(share * 10) / 10)} % within`, series.filter(s => s.x.length).map(s =>
        [s.name, say(s.x[bisect(s.y, share)], spec.unit), s.colour, s.dash]));
      return;
    }
    const all = series.filter(s => s.x.length);
    if (!all.length) return;
    const first = all.map(s => s.x[nearest(s.x, x.invert(px))]).reduce((a, b) => Math.abs(x(a) - px) <= Math.abs(x(b) - px) ? a : b);
    place(rule, x(first), x(first), box.top, box.bottom);
    const rows = all.map(s => [s.name, say(s.y[s.x.indexOf(first)], spec.unit), s.hatch === undefined ? s.colour : "", s.dash]);
    showTip(event, `${spec.x.name || spec.x.label}: ${spec.x.names ? spec.x.names[first] : full.format(first)}`, rows);
  }, () => rule.setAttribute("visibility", "hidden"));
}
function place(rule, x1, x2, y1, y2) {
  for (const [key, value] of Object.entries({x1, x2, y1, y2, visibility: "visible"})) rule.setAttribute(key, value);
}
/** Calls `move` with the pointer's place in the units of the drawing, `leave` when it goes. */
function track(pane, svg, move, leave) {
  const at = event => {
    const frame = svg.getBoundingClientRect(), unit = svg.viewBox.baseVal.width / frame.width;
    move(event, (event.clientX - frame.left) * unit, (event.clientY - frame.top) * unit);
  };
  pane.addEventListener("pointermove", at);
  pane.addEventListener("pointerdown", at);
  pane.addEventListener("pointerleave", () => { hideTip(); leave(); });
}

// ---- stacked bars: a row a system ----
function bars(host, spec) {
  const shown = new Map();
  for (const row of spec.rows) for (const part of row.parts) if (part.value > 0.01 * row.total) shown.set(part.name, part);
  legend(host, spec.order.filter(name => shown.has(name)).map(name => [name, shown.get(name).colour, shown.get(name).hatch]), false);
  const each = 44, height = spec.rows.length * each + 6;
  const [svg, width] = newSvg(host, height, spec.title);
  const longest = Math.max(...spec.rows.map(row => row.total)) || 1, room = width - 78;
  spec.rows.forEach((row, place) => {
    const top = place * each + 18;
    const name = el("text", {x: 0, y: top - 5, class: "row"}, svg);
    name.append(row.label);
    if (row.note) el("tspan", {class: "faint", dx: 6}, name, row.note);
    let left = 0;
    for (const part of row.parts) {
      const wide = part.value / longest * room;
      if (wide <= 0) continue;
      const share = part.value / row.total, says = Math.round(share * 100) + " %";
      const rect = el("rect", {x: left, y: top, width: wide, height: 20, fill: paint(part.colour, part.hatch), class: "bar"}, svg);
      if (wide > 36) {
        if (part.hatch) el("rect", {x: left + wide / 2 - 15, y: top + 3, width: 30, height: 14, fill: part.colour, class: "quiet"}, svg);
        el("text", {x: left + wide / 2, y: top + 14, "text-anchor": "middle", class: part.dark ? "in light" : "in"}, svg, says);
      }
      track(rect, svg, event => showTip(event, row.label + (row.note ? " " + row.note : ""), [[part.name, `${say(part.value, spec.unit)} (${full.format(Math.round(share * 1000) / 10)} %)`]]), () => 0);
      left += wide;
    }
    el("text", {x: left + 5, y: top + 14, class: "tick"}, svg, say(row.total, spec.unit));
  });
}

// ---- intervals about zero: a row a metric ----
function intervals(host, spec) {
  const each = 24, height = spec.rows.length * each + 46;
  const [svg, width] = newSvg(host, height, spec.title);
  const box = {left: Math.min(110, width * 0.3), right: width - 12, top: 18, bottom: height - 40};
  const [x0, x1] = extent([].concat(...spec.rows.map(row => [row.low, row.high])), 0, 0);
  const pad = 0.04 * (x1 - x0), x = scale(x0 - pad, x1 + pad, box.left, box.right, false);
  axes(svg, box, x, Object.assign(() => box.bottom, {ticks: () => []}), {x: {label: spec.label}, y: {label: ""}});
  el("line", {x1: x(0), x2: x(0), y1: box.top, y2: box.bottom, class: "mark"}, svg);
  spec.rows.forEach((row, place) => {
    const y = box.top + (place + 0.5) * each;
    el("text", {x: box.left - 10, y: y + 4, "text-anchor": "end", class: "tick"}, svg, row.label);
    if (!exists(row.mean)) { el("text", {x: x(0) + 6, y: y + 4, class: "tick faint"}, svg, "no value"); return; }
    const colour = ink(spec.colour), group = el("g", {class: row.shown ? "shown" : "faint"}, svg);
    el("line", {x1: x(row.low), x2: x(row.high), y1: y, y2: y, stroke: colour, "stroke-width": 2}, group);
    for (const end of [row.low, row.high]) el("line", {x1: x(end), x2: x(end), y1: y - 4, y2: y + 4, stroke: colour, "stroke-width": 2}, group);
    el("circle", {cx: x(row.mean), cy: y, r: 4.5, fill: row.shown ? colour : "var(--paper)", stroke: colour, "stroke-width": 2}, group);
    const pane = el("rect", {x: box.left, y: y - each / 2, width: box.right - box.left, height: each, class: "pane"}, svg);
    track(pane, svg, event => showTip(event, row.label, row.tip), () => 0);
  });
}

// ---- points with names, and the Pareto line ----
const SHAPES = ["M-5 0A5 5 0 1 0 5 0A5 5 0 1 0 -5 0", "M-4.6 -4.6H4.6V4.6H-4.6Z", "M0 -6L5.6 4.4H-5.6Z", "M0 -6L5.5 0L0 6L-5.5 0Z", "M-5 -2H-2V-5H2V-2H5V2H2V5H-2V2H-5Z"];
function scatter(host, spec) {
  const box = html("div", "legend", host);
  const shape = new Map();
  for (const p of spec.points) if (!shape.has(p.group)) {
    shape.set(p.group, SHAPES[shape.size % SHAPES.length]);
    const item = html("span", "", box);
    const sample = el("svg", {width: 14, height: 14, viewBox: "-7 -7 14 14", class: "swatch"}, item);
    el("path", {d: shape.get(p.group), fill: ink(p.colour)}, sample);
    item.append(p.group);
  }
  html("span", "", box, spec.key);
  const height = spec.height || 380, [svg, width] = newSvg(host, height, spec.title);
  const area = {left: 48, right: width - 14, top: 24, bottom: height - 40};
  const xs = extent(spec.points.map(p => p.x)), ys = extent(spec.points.map(p => p.y));
  const x = scale(0, xs[1] * 1.06, area.left, area.right, false), y = scale(0, ys[1] * 1.06, area.bottom, area.top, false);
  axes(svg, area, x, y, spec);
  for (const p of spec.points) if (p.pareto) el("circle", {cx: x(p.x), cy: y(p.y), r: 9, class: "front"}, svg);
  for (const p of spec.points) {
    el("path", {d: shape.get(p.group), transform: `translate(${x(p.x)} ${y(p.y)})`, fill: p.hollow ? "var(--paper)" : ink(p.colour), stroke: ink(p.colour), "stroke-width": 1.6, opacity: p.hollow ? 0.7 : 1}, svg);
    if (p.label) el("text", {x: x(p.x) + 9, y: y(p.y) - 8, class: "note"}, svg, p.label);
  }
  const ring = el("circle", {r: 12, class: "ring", visibility: "hidden"}, svg);
  const pane = el("rect", {x: area.left, y: area.top, width: area.right - area.left, height: area.bottom - area.top, class: "pane"}, svg);
  track(pane, svg, (event, px, py) => {
    const far = p => Math.hypot(x(p.x) - px, y(p.y) - py);
    const best = spec.points.reduce((a, b) => far(a) <= far(b) ? a : b);
    if (far(best) > 40) { hideTip(); ring.setAttribute("visibility", "hidden"); return; }
    for (const [key, value] of Object.entries({cx: x(best.x), cy: y(best.y), visibility: "visible"})) ring.setAttribute(key, value);
    showTip(event, best.name, best.tip);
  }, () => ring.setAttribute("visibility", "hidden"));
}

// ---- heat: darker is more, whatever the colours ----
function shade(share) {
  const from = [237, 244, 250], to = [0, 62, 110];
  return `rgb(${from.map((c, i) => Math.round(c + (to[i] - c) * share)).join(" ")})`;
}
function heat(host, spec) {
  const rows = spec.rows.length, each = spec.cell || Math.max(12, Math.min(30, 420 / rows));
  const height = rows * each + 62;
  const [svg, width] = newSvg(host, height, spec.title);
  const name = Math.min(width * 0.3, 12 + 6.6 * Math.max(...spec.rows.map(text => String(text).length)));
  const box = {left: name, right: width - 14, top: 24, bottom: 24 + rows * each};
  const [low, high] = extent([].concat(...spec.z), spec.low);
  const tone = spec.root ? Math.sqrt : share => share;  // a root keeps a little in sight beside a lot
  const columns = spec.z[0].length, wide = (box.right - box.left) / columns;
  el("text", {x: 0, y: 11, class: "label"}, svg, spec.y.label);
  spec.z.forEach((line, r) => {
    el("text", {x: box.left - 6, y: box.top + (r + 0.5) * each + 4, class: "tick", "text-anchor": "end"}, svg, spec.rows[r]);
    line.forEach((value, c) => {
      if (!exists(value)) return;
      const share = tone((value - low) / (high - low || 1));
      el("rect", {x: box.left + c * wide, y: box.top + r * each, width: wide + (spec.columns ? -1 : 0.4), height: each - 1, fill: shade(share)}, svg);
      if (spec.columns && wide > 44 && each > 16) el("text", {x: box.left + (c + 0.5) * wide, y: box.top + (r + 0.5) * each + 4, "text-anchor": "middle", class: share > 0.5 ? "in light" : "in"}, svg, short.format(value));
    });
  });
  if (spec.columns) spec.columns.forEach((text, c) => {
    if (c % Math.ceil(columns * 42 / (box.right - box.left)) === 0) el("text", {x: box.left + (c + 0.5) * wide, y: box.bottom + 15, class: "tick", "text-anchor": "middle"}, svg, text);
  });
  else {
    const x = scale(0, spec.span, box.left, box.right, false);
    for (const value of x.ticks(Math.round((box.right - box.left) / 75))) el("text", {x: x(value), y: box.bottom + 15, class: "tick", "text-anchor": "middle"}, svg, short.format(value));
  }
  el("text", {x: box.right, y: box.bottom + 32, class: "label", "text-anchor": "end"}, svg, spec.x.label);
  key(svg, box, low, high, spec.unit, tone);
  const pane = el("rect", {x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top, class: "pane"}, svg);
  track(pane, svg, (event, px, py) => {
    const c = Math.min(columns - 1, Math.max(0, Math.floor((px - box.left) / wide))), r = Math.min(rows - 1, Math.max(0, Math.floor((py - box.top) / each)));
    const column = spec.columns ? spec.columns[c] : full.format((c + 0.5) / columns * spec.span);
    showTip(event, `${spec.rows[r]}, ${spec.x.label} ${column}`, [[spec.what, say(spec.z[r][c], spec.unit)]]);
  }, () => 0);
}
function key(svg, box, low, high, unit, tone) {
  const y = box.bottom + 24, wide = 60;
  for (let i = 0; i < 12; i++) el("rect", {x: box.left + 34 + i * wide / 12, y, width: wide / 12 + 0.3, height: 9, fill: shade(tone(i / 11))}, svg);
  el("text", {x: box.left + 30, y: y + 9, class: "tick", "text-anchor": "end"}, svg, short.format(low));
  el("text", {x: box.left + 38 + wide, y: y + 9, class: "tick"}, svg, short.format(high) + (unit ? " " + unit : ""));
}

// ---- a sweep: what goes along, what tells the lines apart, and the value of the others are chosen in the page ----
function sweep(host, spec) {
  const several = spec.dims.filter(dim => dim.values.length > 1);
  const along = several.length ? several.reduce((a, b) => a.values.length >= b.values.length ? a : b) : spec.dims[0];
  const fewest = several.filter(dim => dim !== along).sort((a, b) => a.values.length - b.values.length)[0] || null;
  const state = {x: along, by: fewest, metric: spec.metrics[0], fixed: new Map(spec.dims.map(dim => [dim, 0]))};
  const controls = html("div", "controls", host), plots = html("div", "grid", host), map = html("div", "plot", host);
  const draw = () => {
    controls.replaceChildren();
    if (several.length > 1) choose(controls, "along", several, state.x, dim => { if (state.by === dim) state.by = state.x; state.x = dim; draw(); });
    if (several.length > 1) choose(controls, "a line for each", several.filter(dim => dim !== state.x), state.by, dim => { state.by = dim; draw(); });
    for (const dim of several) if (dim !== state.x && dim !== state.by)
      choose(controls, dim.label, dim.values.map((value, i) => ({label: dim.names[i], i})), {i: state.fixed.get(dim)}, o => { state.fixed.set(dim, o.i); draw(); });
    const found = (i, j) => spec.rows.find(row => spec.dims.every((dim, d) =>
      row.at[d] === (dim === state.x ? i : dim === state.by ? j : state.fixed.get(dim))));
    plots.replaceChildren();
    // All places first: how wide each is depends on how many there are.
    const places = spec.metrics.map(() => html("div", "plot", plots));
    spec.metrics.forEach((metric, i) => lines(places[i], sweepLines(spec, state, metric, found)));
    map.replaceChildren();
    if (!state.by || !spec.metrics.length) return;
    choose(html("div", "controls", map), "as a map:", spec.metrics, state.metric, metric => { state.metric = metric; draw(); });
    heat(map, sweepHeat(state, found));
  };
  draw();
}
function choose(parent, name, options, chosen, then) {
  const label = html("label", "", parent, name + " "), select = html("select", "", label);
  options.forEach(option => { html("option", "", select, option.label).selected = option === chosen || (chosen && option.i !== undefined && option.i === chosen.i); });
  select.addEventListener("change", () => then(options[select.selectedIndex]));
}
function sweepLines(spec, state, metric, found) {
  const {x, by} = state, places = x.values.map((_, i) => i);
  const across = x.numeric ? x.values : places;
  const series = (by ? by.names : [spec.name]).map((name, j) => {
    const k = spec.metrics.indexOf(metric), look = by ? by.looks[j] : spec.look;
    return {name, ...look, points: true, x: across, y: places.map(i => { const row = found(i, j); return row ? row.values[k] : null; }),
      half: places.map(i => { const row = found(i, j); return row ? row.half[k] : null; })};
  });
  const axis = x.numeric && x.values.length > 8 ? {} : {ticks: across, names: Object.fromEntries(across.map((v, i) => [v, x.names[i]]))};
  const levels = metric.limit ? [{y: metric.limit, label: "SLO"}] : [];
  const limited = levels.length && Math.max(...series.flatMap(s => s.y.filter(exists))) * 3 > metric.limit ? levels : [];
  return {title: metric.label, x: {label: x.label, ...axis}, y: {label: metric.label}, unit: metric.unit, series, levels: limited, height: 230, legend: !!by};
}
function sweepHeat(state, found) {
  const {x, by, metric} = state, k = DATA.sweep.metrics.indexOf(metric);
  const z = by.values.map((_, j) => x.values.map((_, i) => { const row = found(i, j); return row ? row.values[k] : null; }));
  return {title: metric.label, rows: by.names, columns: x.names, z, x: {label: x.label}, y: {label: `${metric.label}, by ${by.label}`}, what: metric.label, unit: metric.unit, cell: 28};
}

// ---- all of it ----
const DRAW = {lines, area: lines, bars, intervals, scatter, heat, sweep};
function drawAll() {
  let drawn = 0;
  for (const host of document.querySelectorAll("[data-chart]")) {
    host.replaceChildren();
    const spec = DATA[host.dataset.chart];
    try {
      DRAW[spec.type](host, spec);
      drawn++;
    } catch (problem) {
      document.documentElement.dataset.error = problem.message;
      host.textContent = "This chart could not be drawn: " + problem.message;
    }
  }
  document.documentElement.dataset.drawn = drawn;
}
let wide = innerWidth, later = 0;
addEventListener("resize", () => {
  clearTimeout(later);
  later = setTimeout(() => { if (innerWidth !== wide) { wide = innerWidth; drawAll(); } }, 150);
});
addEventListener("scroll", hideTip, {passive: true});
drawAll();
