// How measured figures are shown: a value with its interval as text, as a dot on a scale, as a bar.

import { $, api, el, number, percent, toast } from "./puna.js";

/** "0.78 (0.61 to 0.90)"; `show` formats each of the three. */
export function estimate(found, show = (x) => number(x, 2)) {
  if (!found || found.value === null || found.value === undefined) return "–";
  const known = found.low !== null && found.low !== undefined;
  return show(found.value) + (known ? ` (${show(found.low)} to ${show(found.high)})` : "");
}

/** A percentage without digits after the point. */
export const share = (x) => percent(x, 0);

/** A dot with its interval on a line from `from` to `to`; `aim` is a mark to compare with. */
export function scale(found, { from = 0, to = 1, aim } = {}) {
  const line = el("div", { class: "scale", "aria-hidden": "true" });
  const at = (value) => `${(100 * (Math.min(to, Math.max(from, value)) - from)) / (to - from)}%`;
  const mark = (name, left, right) => {
    const made = el("i", { class: name });
    made.style.setProperty("left", left);
    if (right !== undefined) made.style.setProperty("right", `calc(100% - ${right})`);
    line.append(made);
  };
  if (from < 0) mark("zero", at(0));
  if (aim !== undefined) mark("aim", at(aim));
  if (found?.low !== null && found?.low !== undefined) mark("span", at(found.low), at(found.high));
  if (found && found.value !== null && found.value !== undefined) mark("dot", at(found.value));
  return line;
}

/** Win, tie and loss as one bar with its percentages. */
export function outcomes(row) {
  const bar = el("div", {
    class: "outcomes",
    role: "img",
    "aria-label":
      `win ${estimate(row.win, percent)}, tie ${estimate(row.tie, percent)}, ` +
      `loss ${estimate(row.loss, percent)}`,
  });
  for (const name of ["win", "tie", "loss"]) {
    const { value } = row[name];
    const part = el("span", {
      class: name,
      title: `${name} ${estimate(row[name], percent)}`,
      text: value >= 0.07 ? share(value) : "",
    });
    part.style.setProperty("flex-grow", value);
    bar.append(part);
  }
  return bar;
}

/** A table: heads are texts, or {text, title, number: true}; cells are texts or elements. */
export function table(heads, rows, caption) {
  const given = heads.map((head) => (typeof head === "string" ? { text: head } : head));
  const cell = (value, i) => {
    const kind = { class: given[i].number ? "number" : null };
    const inside = value instanceof Node ? [value] : [el("span", { text: value ?? "–" })];
    return i === 0 ? el("th", { scope: "row", ...kind }, inside) : el("td", kind, inside);
  };
  return el(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    el(
      "table",
      { class: "data" },
      el("caption", { class: "visually-hidden", text: caption }),
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          given.map(({ text, title, number: right }) =>
            el("th", { scope: "col", text, title, class: right ? "number" : null }),
          ),
        ),
      ),
      el(
        "tbody",
        {},
        rows.map((row) => el("tr", {}, row.map(cell))),
      ),
    ),
  );
}

/** Fill a <select> with [value, text]; `chosen` is selected. */
export function options(select, pairs, chosen) {
  select.replaceChildren(
    ...pairs.map(([value, text]) =>
      el("option", { value, text, selected: String(value) === String(chosen ?? "") }),
    ),
  );
}

/** Why a coefficient is not there, or nothing. */
export const why = (found) =>
  found?.why ? el("p", { class: "small muted", text: found.why }) : null;

/** What a form asks of `path`, given to `show`; asking again ends what is still under way. */
export function asking(form, path, show) {
  let running = null;
  const query = () => new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
  const load = async () => {
    running?.abort();
    running = new AbortController();
    $("#figures").setAttribute("aria-busy", "true");
    try {
      show(await api("GET", `${path}?${query()}`, undefined, { signal: running.signal }));
    } catch (error) {
      if (error.name === "AbortError") return;
      toast(error.message, "bad");
    }
    $("#figures").removeAttribute("aria-busy");
  };
  return { query, load };
}
