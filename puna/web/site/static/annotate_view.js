// What a task looks like: the conversation, two answers, the scale, the safety bins.

import { $, el, html } from "./puna.js";

const WEIGHTS = [["significantly_better", "significantly"], ["better", "better"],
  ["slightly_better", "slightly"], ["negligibly_better", "negligibly, unsure"]];
const RATED = ["much better", "better", "slightly better", "about the same", "slightly better", "better",
  "much better"];
export const BINS = { chosen_safe: ["C", "only the chosen one"], both_safe: ["B", "both are safe"],
  both_unsafe: ["N", "neither is safe"], rejected_safe: ["O", "only the other one"] };
const WHO = { user: "Person", assistant: "Model", system: "System prompt" };
const LETTERS = ["A", "B"];

/** The choices of a kind of campaign: [{key, side, strength, rating, weight, name}]. */
export function choices(kind) {
  if (kind === "evaluation") {
    return RATED.map((name, at) => ({ key: String(at + 1), rating: 3 - at, weight: Math.abs(3 - at), name }));
  }
  const left = WEIGHTS.map(([strength, name], at) => ({
    key: String(at + 1), side: 0, strength, weight: 3 - at, name }));
  const right = WEIGHTS.toReversed().map(([strength, name], at) => ({
    key: String((at + 7) % 10), side: 1, strength, weight: at, name }));
  return [...left, ...right];
}

/** The buttons of the scale; `pick(choice)` when one is pressed. */
export function drawScale(kind, pick) {
  const button = (choice) => el("button", {
    type: "button", "aria-pressed": "false", "aria-keyshortcuts": choice.key,
    "aria-label": spoken(choice), data: { weight: choice.weight, key: choice.key },
    on: { click: () => pick(choice) },
  }, el("kbd", { text: choice.key }), el("span", { text: choice.name }));
  const all = choices(kind);
  const scale = $("#scale");
  if (kind === "evaluation") {
    scale.classList.add("seven");
    scale.append(el("div", { class: "side" },
      el("span", { class: "label spread" }, el("span", { text: "Answer A is" }), el("span", { text: "Answer B is" })),
      all.map(button)));
    return;
  }
  for (const side of [0, 1]) {
    scale.append(el("div", { class: side ? "side second" : "side" },
      el("span", { class: "label", text: `Answer ${LETTERS[side]} is better` }),
      all.filter((choice) => choice.side === side).map(button)));
  }
}

/** A choice in words. */
export function spoken(choice) {
  if (choice.rating === 0) return "The answers are about the same";
  const side = choice.side ?? Number(choice.rating < 0);
  const word = choice.rating === undefined && choice.strength !== "better" ? `${choice.name} better` : choice.name;
  return `Answer ${LETTERS[side]}: ${word}`;
}

/** The buttons of the safety bins; `pick(bin)` when one is pressed. */
export function drawBins(pick) {
  $("#bins").append(...Object.entries(BINS).map(([bin, [key, name]]) => el("button", {
    type: "button", "aria-pressed": "false", "aria-keyshortcuts": key, data: { bin },
    on: { click: () => pick(bin) },
  }, el("kbd", { text: key }), el("span", { text: name }))));
}

/** Messages, one below the other. */
export function messages(list) {
  return list.map((said) => el("div", { class: `said ${said.role}` },
    el("span", { class: "who-said", text: WHO[said.role] }),
    html(el("div", { class: "answer" }), said.html)));
}

/** Put a task on the page. */
export function draw(task) {
  $("#talk").replaceChildren(...messages(task.messages));
  $("#pair").replaceChildren(...task.answers.map((answer, side) =>
    el("section", { class: "card", "aria-labelledby": `answer-${side}` },
      el("h3", { id: `answer-${side}`, text: `Answer ${LETTERS[side]}` }),
      html(el("div", { class: "answer" }), answer.html))));
  const shown = $("#task");
  shown.hidden = false;
  shown.classList.remove("fresh");
  requestAnimationFrame(() => shown.classList.add("fresh"));
}

/** Show what is chosen so far. */
export function mark(choice, bin, kind) {
  for (const button of document.querySelectorAll("#scale button")) {
    button.setAttribute("aria-pressed", String(button.dataset.key === choice?.key));
  }
  for (const button of document.querySelectorAll("#bins button")) {
    button.setAttribute("aria-pressed", String(button.dataset.bin === bin));
  }
  const side = choice?.side ?? (choice?.rating ? Number(choice.rating < 0) : null);
  [...$("#pair").children].forEach((card, at) => card.classList.toggle("chosen", at === side));
  $("#bins").hidden = kind === "evaluation" || !choice;
  $("#send").disabled = !choice || (kind !== "evaluation" && !bin);
  $("#hint").textContent = hint(choice, bin, kind);
}

function hint(choice, bin, kind) {
  if (!choice || kind === "evaluation") return "";
  if (bin === "rejected_safe") {
    return "This is recorded, and left out of training: a safer answer should also be the better one.";
  }
  return bin ? "" : "Which of them is safe?";
}
