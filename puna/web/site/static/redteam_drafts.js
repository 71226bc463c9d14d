// The queue of safety drafts: read, mend, approve or send back, by key.

import { $, $$, api, dialog, draft, el, keys, number, toast } from "./puna.js";
import { blur, conversation } from "./redteam_parts.js";

const queue = $("#queue");
const MORE = { draft: "No draft waits. Violations that people find appear here.",
  approved: "Nothing is approved yet.", rejected: "Nothing was sent back." };
let shown = "draft";
let kept = new Map(); // typed answers, by draft

const cards = () => $$(".draft", queue);
const current = () => $(".draft[aria-current=true]", queue);

function choose(card, scroll = true) {
  cards().forEach((other) => other.setAttribute("aria-current", String(other === card)));
  if (scroll) card?.scrollIntoView({ block: "nearest" });
}

function step(by) {
  const all = cards();
  const next = all[Math.max(0, Math.min(all.length - 1, all.indexOf(current()) + by))];
  if (next) choose(next);
}

async function reason() {
  const field = el("textarea", { id: "reason", rows: 4, maxlength: 4000, required: true, autofocus: true });
  const asked = el("dialog", { "aria-labelledby": "reason-label" },
    el("form", { method: "dialog", class: "stack" },
      el("div", { class: "field" },
        el("label", { id: "reason-label", for: "reason", text: "What should be different?" }), field,
        el("p", { class: "hint", text: "Whoever wrote it reads this and can try again." })),
      el("div", { class: "row end" },
        el("button", { type: "button", text: "Cancel", on: { click: () => asked.close("") } }),
        el("button", { type: "submit", class: "danger primary", text: "Send back", value: "yes" }))));
  return (await dialog(asked)) === "yes" ? field.value.trim() : "";
}

async function decide(card, state) {
  if (!card || card.getAttribute("aria-busy") === "true") return;
  const why = state === "rejected" ? await reason() : "";
  if (state === "rejected" && !why) return;
  card.setAttribute("aria-busy", "true");
  try {
    const answer = $("textarea", card).value;
    await api("POST", `/api/redteam/drafts/${card.dataset.id}/verdict`, { state, answer, reason: why });
  } catch (error) {
    card.setAttribute("aria-busy", "false");
    toast(error.message, "bad");
    return;
  }
  kept.get(card)?.clear();
  toast({ approved: "Approved.", rejected: "Sent back.", draft: "Open again." }[state], "good");
  const all = cards();
  const next = all[all.indexOf(card) + 1] ?? all[all.indexOf(card) - 1];
  card.remove();
  if (next) choose(next);
  else load();
}

function buttons(card, it) {
  const button = (text, kind, state, key) => el("button", { type: "button", class: kind,
    on: { click: () => decide(card(), state) } }, text, key && el("kbd", { text: key }));
  if (it.state !== "draft") return [button("Open again", "", "draft")];
  const approve = it.answer ? "Approve" : "Approve the prompt alone";
  return [button(approve, "primary approve", "approved", "a"), button("Send back", "danger", "rejected", "r")];
}

function card(it) {
  const field = el("textarea", { id: `answer-${it.id}`, rows: 6, maxlength: 20000, value: it.answer,
    disabled: it.state !== "draft", placeholder: "Leave it empty to use the prompt alone." });
  const made = el("article", { class: "card stack draft", data: { id: it.id },
    on: { focusin: () => choose(made, false), click: () => choose(made, false) } },
  el("header", { class: "spread" },
    el("h2", { text: `${it.risk}, by ${it.vector}` }),
    el("div", { class: "row" },
      it.own && el("span", { class: "badge", text: "your own" }),
      it.points && el("span", { class: "badge bad", text: `${it.points} of 5` }),
      it.attempt && el("a", { class: "small", href: `/redteam/attempts/${it.attempt}`, text: "The attempt" }))),
  it.note && el("p", { class: "small" }, el("b", { text: "Note: " }), it.note),
  it.reason && el("p", { class: "panel warn small" }, el("b", { text: "Sent back: " }), it.reason),
  conversation([...it.messages, { role: "assistant", html: it.violating.html }]),
  el("div", { class: "field" }, el("label", { for: field.id, text: "The safe answer" }), field),
  el("div", { class: "row" }, buttons(() => made, it)));
  if (it.state === "draft") kept.set(made, draft(field, `redteam.review.${it.id}`));
  field.addEventListener("input", () => {
    const approve = $(".approve", made)?.firstChild;
    if (approve) approve.textContent = field.value.trim() ? "Approve" : "Approve the prompt alone";
  });
  return made;
}

async function load() {
  queue.setAttribute("aria-busy", "true");
  try {
    const found = await api("GET", `/api/redteam/drafts?state=${shown}`);
    kept = new Map();
    queue.replaceChildren(...found.drafts.map(card));
    const rest = found.total - found.drafts.length;
    if (rest > 0) queue.append(el("p", { class: "muted", text: `${number(rest)} more follow.` }));
    if (!found.total) queue.append(el("div", { class: "empty" }, el("p", { text: MORE[shown] })));
    choose(cards()[0], false);
  } catch (error) {
    queue.replaceChildren(el("p", { class: "panel bad", text: error.message }));
  }
  queue.setAttribute("aria-busy", "false");
}

$$("#states button").forEach((tab) => tab.addEventListener("click", () => {
  shown = tab.dataset.state;
  $$("#states button").forEach((other) => other.setAttribute("aria-current", String(other === tab)));
  load();
}));
keys({
  j: [() => step(1), "Next draft"],
  k: [() => step(-1), "Previous draft"],
  e: [() => $("textarea", current())?.focus(), "Edit the answer"],
  a: [() => decide(current(), "approved"), "Approve"],
  r: [() => decide(current(), "rejected"), "Send back"],
}, { when: () => shown === "draft" && Boolean(current()) });
blur();
load();
