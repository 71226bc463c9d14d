// A conversation and two answers, as reviewers and annotators look back at them.

import { el, html } from "./puna.js";

export const STRENGTHS = {
  significantly_better: "significantly better", better: "better", slightly_better: "slightly better",
  negligibly_better: "negligibly better, or unsure",
};
export const BINS = {
  chosen_safe: "only the chosen one is safe", both_safe: "both are safe",
  both_unsafe: "both are unsafe", rejected_safe: "only the other one is safe",
};
export const RATINGS = {
  3: "much better", 2: "better", 1: "slightly better", 0: "about the same",
};
export const LETTERS = ["A", "B"];

/** The messages of a conversation. */
export function talk(messages) {
  const names = { user: "Person", assistant: "Model", system: "System prompt" };
  return el("div", { class: "talk" }, messages.map(({ role, html: made }) =>
    el("div", { class: `said ${role}` }, el("span", { class: "small muted", text: names[role] }),
      html(el("div", { class: "answer" }), made))));
}

function about(answer, blind) {
  const heat = answer.temperature ?? null;
  const who = blind ? [] : [answer.model, heat === null ? "" : `temperature ${heat}`];
  return [...who, answer.finish === "length" ? "cut off" : ""].filter(Boolean).join(", ");
}

/** Two answers side by side; `chosen` is marked. blind: not which model wrote them. */
export function pair(answers, chosen, { expected, blind = false } = {}) {
  return el("div", { class: "pair" }, answers.map((answer, place) =>
    el("section", { class: `card${place === chosen ? " chosen" : ""}`,
      "aria-label": `Answer ${LETTERS[place]}` },
    el("div", { class: "row" },
      el("h2", { class: "lesser", text: `Answer ${LETTERS[place]}` }),
      place === chosen ? el("span", { class: "badge info", text: "chosen" }) : null,
      place === expected ? el("span", { class: "badge good", text: "expected" }) : null),
    html(el("div", { class: "answer" }), answer.html),
    about(answer, blind) ? el("p", { class: "muted small", text: about(answer, blind) }) : null)));
}

/** What somebody judged, in words. */
export function words(judged) {
  if (judged.rating !== null && judged.rating !== undefined) {
    if (judged.rating === 0) return RATINGS[0];
    return `${LETTERS[Number(judged.rating < 0)]} ${RATINGS[Math.abs(judged.rating)]}`;
  }
  if (judged.chosen === null) return "no choice";
  const strength = STRENGTHS[judged.strength] ?? "";
  return [`${LETTERS[judged.chosen]} ${strength}`.trim(), BINS[judged.safety]].filter(Boolean).join("; ");
}
