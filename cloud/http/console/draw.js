// Pictures: states over time as lanes, and measurements as lines. SVG, so that they are sharp at any size and can be read out.

import { clock, server, span, stateWords, tone } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";

function s(tag, attributes = {}, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/** A small strip of one lane, for a row of the list: the last `seconds`. states: [[at, state]]. */
export function strip(canvas, states, seconds, colours) {
  const ratio = devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  if (!width) return;
  if (canvas.width !== Math.round(width * ratio)) { canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio); }
  const context = canvas.getContext("2d");
  const now = server.now(), from = now - seconds;
  context.clearRect(0, 0, canvas.width, canvas.height);
  states.forEach(([at, state], index) => {
    const start = Math.max(at, from), end = states[index + 1]?.[0] ?? now;
    if (end <= from) return;
    const left = ((start - from) / seconds) * canvas.width;
    const right = ((end - from) / seconds) * canvas.width;
    context.fillStyle = colours[tone(state)];
    // A loss of a second is what one looks for: it keeps at least two pixels.
    const thin = Math.max(right - left, 2 * ratio);
    const tall = tone(state) === "on" ? 0.5 : 1;
    context.fillRect(Math.min(left, canvas.width - thin), canvas.height * (1 - tall) / 2, thin, canvas.height * tall);
  });
}

const STEPS = [5, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400];

/** Lanes of states over time, one under the other. lanes: {name: [{at, state, reason}]}. */
export function lanes(box, all, seconds, names = (lane) => lane) {
  const width = Math.max(box.clientWidth, 240), label = width < 560 ? 96 : 150, line = 26, top = 6;
  const entries = Object.entries(all);
  const now = server.now(), from = now - seconds;
  const x = (at) => label + ((Math.max(at, from) - from) / seconds) * (width - label - 8);
  const height = top + entries.length * line + 22;
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img",
    "aria-label": entries.map(([lane, states]) => `${names(lane)}: ${stateWords(states.at(-1)?.state ?? "unknown")}`).join("; ") });
  const step = STEPS.find((one) => seconds / one <= (width < 560 ? 4 : 8)) ?? 86400;
  for (let at = Math.ceil(from / step) * step; at <= now; at += step) {
    svg.append(s("line", { x1: x(at), x2: x(at), y1: top, y2: height - 20, class: "grid" }));
    const words = step < 60 ? clock(at) : clock(at).slice(0, 5);
    if (x(at) < width - 24) svg.append(s("text", { x: x(at), y: height - 6, class: "tick", "text-anchor": "middle" }, words));
  }
  entries.forEach(([lane, states], row) => {
    const y = top + row * line;
    const name = s("text", { x: 0, y: y + 16, class: "lane" }, names(lane));
    name.append(s("title", {}, lane));
    svg.append(name, s("rect", { x: label, y: y + 4, width: width - label - 8, height: line - 9, class: "ground", rx: 3 }));
    states.forEach((one, index) => {
      const end = states[index + 1]?.at ?? now;
      if (end <= from) return;
      const left = x(one.at), wide = Math.max(x(end) - left, 2);
      const bar = s("rect", { x: left, y: y + 4, width: wide, height: line - 9, class: `bar-${tone(one.state)}`, rx: 2 });
      bar.append(s("title", {}, `${stateWords(one.state)} for ${span(end - one.at)} from ${clock(one.at)}${one.reason ? ` — ${one.reason}` : ""}`));
      svg.append(bar);
      if (wide > 66) {
        const words = tone(one.state) === "off" || !one.reason ? stateWords(one.state) : `${stateWords(one.state)} · ${one.reason}`;
        const room = Math.floor((wide - 12) / 6.3);
        svg.append(s("text", { x: left + 6, y: y + 16.5, class: `in-${tone(one.state)}` }, words.length > room ? words.slice(0, Math.max(room - 1, 0)) + "…" : words));
      }
    });
  });
  box.replaceChildren(svg);
}

function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value || 1));
  return [1, 2, 5, 10].map((one) => one * power).find((one) => one >= value);
}

export function amount(value, unit) {
  if (value === null || value === undefined) return "–";
  if (unit === "bytes") return value >= 1e6 ? `${(value / 1e6).toFixed(1)} MB` : value >= 1e3 ? `${(value / 1e3).toFixed(1)} kB` : `${Math.round(value)} B`;
  if (unit === "ms") return value >= 1000 ? `${(value / 1000).toFixed(1)} s` : `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
  return `${value >= 100 ? Math.round(value).toLocaleString("en") : Math.round(value * 10) / 10}${unit ? ` ${unit}` : ""}`;
}

//: Bars are as wide as this at least, seconds: two samples. And so many at most.
const BUCKETS = [10, 15, 30, 60, 120];
const BARS_MAX = 60;

/** Where time goes in a plot: as much as there is, as the cloud keeps an hour of everything. */
function frame(box, points) {
  const width = Math.max(box.clientWidth, 200), height = 116, left = 6, bottom = 18, top = 8;
  const now = server.now(), from = Math.min(points[0]?.[0] ?? now - 10, now - 10);
  return { width, height, left, now, from,
    x: (at) => left + ((at - from) / (now - from)) * (width - left - 6),
    y: (part) => top + (1 - part) * (height - top - bottom) };
}

function scale(svg, { width, height, left, now, from, y }, high) {
  for (const part of [0, 0.5, 1]) svg.append(s("line", { x1: left, x2: width - 6, y1: y(part), y2: y(part), class: "grid" }));
  svg.append(s("text", { x: width - 8, y: y(1) + 11, class: "tick", "text-anchor": "end" }, high));
  svg.append(s("text", { x: left, y: height - 4, class: "tick" }, `${span(now - from)} ago`), s("text", { x: width - 8, y: height - 4, class: "tick", "text-anchor": "end" }, "now"));
}

/** How often something happened, as one bar for each piece of the time shown. points: [[at, times since the last point]]. */
export function bars(box, points, { title }) {
  const place = frame(box, points), { width, height, now, from, x, y } = place;
  const size = BUCKETS.find((one) => (now - from) / one <= BARS_MAX) ?? BUCKETS.at(-1);
  const counts = new Map();
  for (const [at, times] of points) {
    const start = Math.floor(at / size) * size;  // by the clock, so that bars stay where they are
    counts.set(start, (counts.get(start) ?? 0) + times);
  }
  const high = nice(Math.max(5, ...counts.values()));  // one looks like one, not like as many as ever
  const last = points.reduce((sum, [at, times]) => sum + (at > now - 60 ? times : 0), 0);
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": `${title}: ${amount(last)} in the last minute` });
  for (const [start, times] of counts) {
    if (!times) continue;
    const left = x(Math.max(start, from)), wide = Math.max(2, x(Math.min(start + size, now)) - left - 1);
    const bar = s("rect", { x: left, y: y(times / high), width: wide, height: y(0) - y(times / high), class: "count" });
    bar.append(s("title", {}, `${amount(times)} within ${span(size)} from ${clock(start)}`));
    svg.append(bar);
  }
  scale(svg, place, `${amount(high)} in ${span(size)}`);
  box.replaceChildren(svg);
  return last;
}

/** One measurement over time. points: [[at, value or null]]; `good` is a line that should not be crossed. */
export function plot(box, points, { unit, good, title, floor = 1 }) {
  const place = frame(box, points), { width, height, left, now, x } = place;
  const known = points.filter(([, value]) => value !== null);
  const high = nice(Math.max(floor, ...known.map(([, value]) => value * 1.1)));
  const y = (value) => place.y(value / high);
  const last = known.at(-1)?.[1] ?? null;
  const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": `${title}: now ${amount(last, unit)}` });
  scale(svg, place, amount(high, unit));
  if (good && good <= high) svg.append(s("line", { x1: left, x2: width - 6, y1: y(good), y2: y(good), class: "limit" }));
  let line = "", area = "", open = null;
  const close = (at) => { if (open !== null) area += `L${x(at).toFixed(1)},${y(0)}Z`; open = null; };
  points.forEach(([at, value], index) => {
    if (value === null) { close(points[index - 1]?.[0] ?? at); return; }
    const here = `${x(at).toFixed(1)},${y(value).toFixed(1)}`;
    if (open === null) { line += `M${here}`; area += `M${x(at).toFixed(1)},${y(0)}L${here}`; open = at; }
    else { line += `L${here}`; area += `L${here}`; }
    const lonely = points[index - 1]?.[1] == null && points[index + 1]?.[1] == null;
    if (lonely) svg.append(s("circle", { cx: x(at), cy: y(value), r: 2.5, class: "point" }));
  });
  close(points.at(-1)?.[0] ?? now);
  svg.append(s("path", { d: area || "M0,0", class: "area" }), s("path", { d: line || "M0,0", class: "curve" }));
  box.replaceChildren(svg);
  return last;
}
