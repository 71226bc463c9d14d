// What the red-team pages share: the matrix, conversations, the scale, the blur.

import { $, $$, el, html, keys, number, percent, recall, remember } from "./puna.js";

/** The words of the scale, by points, as the server wrote them on the page. */
export const scale = () => new Map($$("#scale [data-points]").map((row) =>
  [Number(row.dataset.points), $("dd", row).textContent]));

/** Blur what was said until one points at it; the choice is kept. */
export function blur() {
  const buttons = $$("[data-act=blur]");
  const show = () => {
    const on = recall("redteam.blur", false);
    document.body.dataset.blur = on ? "on" : "off";
    buttons.forEach((button) => button.setAttribute("aria-pressed", String(on)));
  };
  const turn = () => {
    remember("redteam.blur", !recall("redteam.blur", false));
    show();
  };
  buttons.forEach((button) => button.addEventListener("click", turn));
  keys({ b: [turn, "Blur content, or show it"] });
  show();
}

/** Five buttons, one of them chosen. onMark(points) */
export function marks(points, onMark, name) {
  const words = scale();
  return el("div", { class: "marks", role: "group", "aria-label": name ?? "How bad is it?" },
    [1, 2, 3, 4, 5].map((value) => el("button", {
      type: "button", class: `mark severity-${value}`, "aria-pressed": String(value === points),
      "aria-label": `${value}, ${words.get(value)}`, title: words.get(value), text: value,
      on: { click: () => onMark(value) },
    })));
}

/** A conversation, as it was. */
export function conversation(messages) {
  return el("ol", { class: "turns" }, messages.map(({ role, html: rendered }) => el("li",
    { class: `turn ${role}` },
    el("p", { class: "by small muted", text: role === "user" ? "Person" : "Model" }),
    html(el("div", { class: "answer veil", tabindex: "-1" }), rendered))));
}

const shade = (count, most) => (count ? 1 + Math.min(3, Math.floor((3 * count) / most)) : 0);

/** Risk by vector. `open(risk, vector)` makes the cells buttons. */
export function matrix(cells, suggested, open) {
  const risks = [...new Set(cells.map(({ risk }) => risk))];
  const vectors = [...new Set(cells.map(({ vector }) => vector))];
  const most = Math.max(1, ...cells.map(({ prompts }) => prompts));
  const wanted = new Set(suggested.map((pair) => pair.join("\n")));
  const inside = (cell) => {
    const said = `${cell.prompts} prompts` + (cell.marked ? `, ${percent(cell.share, 0)} violate` : "");
    const parts = [
      el("span", { class: "count", text: number(cell.prompts) }),
      el("span", { class: "share small", text: cell.marked ? percent(cell.share, 0) : "–" }),
      wanted.has(`${cell.risk}\n${cell.vector}`) && el("span", { class: "badge warn", text: "thin" }),
    ];
    const given = { class: `cell shade-${shade(cell.prompts, most)}`, title: said };
    if (!open) return el("div", given, parts);
    return el("button", { ...given, type: "button",
      "aria-label": `Try ${cell.risk} by ${cell.vector}: ${said}`,
      on: { click: () => open(cell.risk, cell.vector) } }, parts);
  };
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Coverage" },
    el("table", { class: "matrix" },
      el("caption", { class: "small muted",
        text: "Prompts tried, and below them the share that the model gave way to." }),
      el("thead", {}, el("tr", {}, el("td"), vectors.map((vector) =>
        el("th", { scope: "col", text: vector })))),
      el("tbody", {}, risks.map((risk) => el("tr", {}, el("th", { scope: "row", text: risk }),
        cells.filter((cell) => cell.risk === risk).map((cell) => el("td", {}, inside(cell))))))));
}

/** Seconds as 1:02:03. */
export function clock(seconds) {
  const whole = Math.floor(seconds);
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (x) => String(x).padStart(2, "0");
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}
