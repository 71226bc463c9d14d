// What reviewers said about one's own work.

import { pair, talk, words } from "./pairs.js";
import { $, ago, api, el, html, toast } from "./puna.js";

const TITLES = { rejected: "Rejected", edited: "Corrected", approved: "Approved" };
const TONES = { rejected: "bad", edited: "info", approved: "good" };
let last = 0;

function entry(one) {
  const changed = one.verdict === "edited";
  const chosen = one.yours.rating ? Number(one.yours.rating < 0) : one.yours.chosen;
  return el("article", { class: "card feedback", data: { verdict: one.verdict } },
    el("div", { class: "spread" },
      el("div", { class: "row" },
        el("span", { class: `badge ${TONES[one.verdict]}`, text: TITLES[one.verdict] }),
        one.new ? el("span", { class: "badge warn", text: "new" }) : null,
        el("bdi", { text: one.campaign })),
      el("span", { class: "muted small", text: ago(one.created) })),
    one.note ? html(el("div", { class: "answer" }), one.note_html) : null,
    el("p", {}, `You said: ${words(one.yours)}.`, changed ? ` Now it says: ${words(one.now)}.` : ""),
    el("details", {}, el("summary", { text: "The item" }),
      el("div", { class: "stack" }, talk(one.messages), pair(one.answers, chosen ?? undefined))));
}

async function load() {
  const shown = $("#feedback");
  try {
    const told = await api("GET", `/api/feedback${last ? `?before=${last}` : ""}`);
    shown.append(...told.feedback.map(entry));
    if (!shown.children.length) {
      shown.append(el("div", { class: "empty" }, el("p", { text: "Nothing yet. Reviewers look at some "
        + "of what you judge; what they say comes here." })));
    }
    const newest = told.feedback[0]?.id;
    if (!last && told.unread && newest) await api("POST", "/api/feedback/read", { upto: newest });
    last = told.feedback.at(-1)?.id ?? last;
    $("#more").hidden = told.feedback.length < 50;
  } catch (error) {
    toast(error.message, "bad");
  }
  shown.setAttribute("aria-busy", "false");
}

$("#more").addEventListener("click", load);
load();
