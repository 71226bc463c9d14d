// Small charts: lines with intervals, bars, stacked bars. Drawn as SVG in the page's colours, with
// the same figures in a table for those who do not see them.

import { el } from "./dom.js";
import { number, percent } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const EDGE = { top: 12, right: 14, bottom: 28, left: 46 };

function draw(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children.filter(Boolean));
  return made;
}

/** Round steps of 1, 2 or 5 that cover low..high in about `count` steps. */
function ticks(low, high, count) {
  const rough = (high - low || 1) / count;
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = size * ([1, 2, 5].find((times) => times * size >= rough) ?? 10);
  const first = Math.floor(low / step + 1e-9);
  const last = Math.ceil(high / step - 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

/** The figures: every x in order, and what each series has there. */
function read(series) {
  const xs = [];
  const maps = series.map(({ values }) => new Map(values.map((point) => {
    if (!xs.includes(point[0])) xs.push(point[0]);
    return [point[0], point];
  })));
  if (xs.every((x) => typeof x === "number")) xs.sort((a, b) => a - b);
  return { xs, maps };
}

/** The lowest and the highest that must be seen. */
function span(given, maps, xs) {
  const sums = given.kind === "stack"
    ? xs.map((x) => maps.reduce((sum, map) => sum + (map.get(x)?.[1] ?? 0), 0)) : [];
  const seen = [...sums, ...maps.flatMap((map) => [...map.values()].flatMap((p) => p.slice(1)))]
    .filter((y) => y !== null && Number.isFinite(y));
  if (given.aim !== undefined) seen.push(given.aim);
  if (given.kind !== "line") seen.push(0);
  if (!seen.length) seen.push(0, 1);
  const [low, high] = given.range ?? [Math.min(...seen), Math.max(...seen)];
  return low === high ? [low - 0.5, high + 0.5] : [low, high];
}

/** Where things are in a drawing of this width and height. */
function places(given, xs, maps, width, height) {
  const steps = ticks(...span(given, maps, xs), height > 180 ? 5 : 3);
  const [low, high] = given.range ?? [steps[0], steps.at(-1)];
  const [left, right] = [EDGE.left, width - EDGE.right];
  const [top, bottom] = [EDGE.top, height - EDGE.bottom];
  const y = (value) => bottom - ((value - low) / (high - low)) * (bottom - top);
  const numeric = given.kind === "line" && xs.length > 1 && xs.every((x) => typeof x === "number");
  const band = (right - left) / Math.max(1, xs.length);
  const x = (value) => (numeric
    ? left + 6 + ((value - xs[0]) / (xs.at(-1) - xs[0])) * (right - left - 12)
    : left + (xs.indexOf(value) + 0.5) * band);
  return { steps: steps.filter((step) => step >= low && step <= high), x, y, band, left, right, bottom,
    zero: y(Math.max(low, Math.min(high, 0))) };
}

function axes(at, xs, given, format) {
  const room = Math.max(1, Math.floor((at.right - at.left) / 56));
  const every = Math.ceil(xs.length / room);
  const short = (x) => (typeof x === "number" ? number(x) : String(x).slice(0, 14));
  return [
    ...at.steps.flatMap((step) => [
      draw("path", { class: "axis", d: `M${at.left} ${at.y(step)}H${at.right}` }),
      draw("text", { x: at.left - 8, y: at.y(step) + 4, "text-anchor": "end" }, format(step)),
    ]),
    ...xs.filter((_, i) => i % every === 0).map((x) => draw("text",
      { x: at.x(x), y: at.bottom + 19, "text-anchor": "middle" }, short(x))),
    given.kind !== "line" && draw("path", { class: "base", d: `M${at.left} ${at.zero}H${at.right}` }),
    given.aim !== undefined && draw("path", { class: "aim", d: `M${at.left} ${at.y(given.aim)}H${at.right}` }),
  ];
}

const pathOf = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`)
  .join("");

function whisker(x, low, high, at) {
  if (!Number.isFinite(low) || !Number.isFinite(high) || low === null || high === null) return null;
  const [a, b] = [at.y(low).toFixed(1), at.y(high).toFixed(1)];
  return draw("path", { class: "whisker", d: `M${x - 4} ${a}h8m-4 0V${b}m-4 0h8` });
}

const told = (name, [x, y, low, high], format) => `${name ? `${name}, ` : ""}${x}: ${format(y)}`
  + (Number.isFinite(low) && low !== null ? ` (${format(low)} to ${format(high)})` : "");

function lines(maps, xs, at, names, format) {
  const apart = xs.length === 1 ? 56 : 0; // one point of each: side by side, not on top of each other
  return maps.map((map, i) => {
    const across = (x) => at.x(x) + apart * (i - (maps.length - 1) / 2);
    const points = xs.map((x) => map.get(x)).filter((p) => p && Number.isFinite(p[1]) && p[1] !== null);
    const bounded = points.filter((p) => Number.isFinite(p[2]) && p[2] !== null && Number.isFinite(p[3]));
    const many = points.length > 40;
    return draw("g", { class: `series-${(i % 6) + 1}` },
      bounded.length > 1 && draw("path", { class: "area", d: `${pathOf([
        ...bounded.map((p) => [at.x(p[0]), at.y(p[3])]),
        ...bounded.toReversed().map((p) => [at.x(p[0]), at.y(p[2])])])}Z` }),
      bounded.length === 1 && whisker(across(bounded[0][0]), bounded[0][2], bounded[0][3], at),
      draw("path", { class: "line", d: pathOf(points.map((p) => [at.x(p[0]), at.y(p[1])])) }),
      ...points.map((p) => draw("circle",
        { class: "dot", cx: across(p[0]), cy: at.y(p[1]), r: many ? 1.5 : 3.5 },
        draw("title", {}, told(names[i], p, format)))));
  });
}

function bars(maps, xs, at, names, format, stacked) {
  const below = new Map(xs.map((x) => [x, 0]));
  const inner = Math.min(at.band * 0.72, 72 * (stacked ? 1 : maps.length));
  const each = stacked ? inner : inner / maps.length;
  return maps.map((map, i) => draw("g", { class: `series-${(i % 6) + 1}` },
    ...xs.flatMap((x) => {
      const point = map.get(x);
      if (!point || point[1] === null || !Number.isFinite(point[1])) return [];
      const from = stacked ? below.get(x) : 0;
      below.set(x, from + point[1]);
      const [a, b] = [at.y(from + point[1]), stacked ? at.y(from) : at.zero];
      const left = at.x(x) - inner / 2 + (stacked ? 0 : i * each);
      return [
        draw("rect", { class: "bar", x: left.toFixed(1), y: Math.min(a, b).toFixed(1), rx: stacked ? 0 : 2,
          width: Math.max(1, each - (stacked ? 0 : 2)).toFixed(1),
          height: Math.max(0.5, Math.abs(b - a) - (stacked ? 1 : 0)).toFixed(1) },
        draw("title", {}, told(names[i], point, format))),
        stacked ? null : whisker(left + each / 2 - 1, point[2], point[3], at),
      ];
    })));
}

function table(given, xs, maps, names, format) {
  const cell = (point) => (point ? told("", point, format).slice(`${point[0]}: `.length) : "");
  return el("div", { class: "visually-hidden" }, el("table", {},
    el("caption", { text: given.title ?? "Figures" }),
    el("thead", {}, el("tr", {}, el("th", { scope: "col", text: given.x || "Where" }),
      names.map((name) => el("th", { scope: "col", text: name || given.y || "Value" })))),
    el("tbody", {}, xs.map((x) => el("tr", {}, el("th", { scope: "row", text: x }),
      maps.map((map) => el("td", { text: cell(map.get(x)) })))))));
}

/**
 * chart(element, {kind: "line" | "bar" | "stack", series: [{name, values: [[x, y, low?, high?]]}],
 *   title, x, y: names of the axes, format: "number" | "percent" | y => text, range: [low, high],
 *   aim: a line to compare with, height: pixels})
 * x are numbers or words. Draws again when the room changes. -> a function that takes it away
 */
export function chart(element, given) {
  const formats = { percent: (y) => percent(y, 0), number: (y) => number(y) };
  const format = typeof given.format === "function" ? given.format : formats[given.format ?? "number"];
  const exact = given.format === "percent" ? (y) => percent(y) : format;
  const { xs, maps } = read(given.series);
  const names = given.series.map(({ name }) => name ?? "");
  const picture = el("div");
  const paint = () => {
    const width = Math.max(240, Math.round(element.clientWidth));
    const height = given.height ?? (width < 480 ? 200 : 240);
    const at = places(given, xs, maps, width, height);
    const marks = given.kind === "line" ? lines(maps, xs, at, names, exact)
      : bars(maps, xs, at, names, exact, given.kind === "stack");
    picture.replaceChildren(draw("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" },
      ...axes(at, xs, given, format), ...marks));
  };
  const legend = names.length > 1 && el("ul", { class: "legend", "aria-hidden": "true" },
    names.map((name, i) => el("li", { class: `series-${(i % 6) + 1}`, text: name })));
  const axis = (given.y || given.x) && el("p", { class: "small muted", "aria-hidden": "true",
    text: [given.y, given.x && `by ${given.x}`].filter(Boolean).join(" ") });
  element.classList.add("chart");
  element.replaceChildren(...[given.title && el("p", { class: "title", text: given.title }), axis, legend,
    xs.length ? picture : el("p", { class: "muted", text: "Nothing to show yet." }),
    xs.length ? table(given, xs, maps, names, exact) : null].filter(Boolean));
  if (!xs.length) return () => element.replaceChildren();
  const watch = new ResizeObserver(paint);
  watch.observe(element);
  paint();
  return () => {
    watch.disconnect();
    element.replaceChildren();
  };
}
