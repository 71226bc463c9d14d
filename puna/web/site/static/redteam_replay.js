// Judging a new model's answers to earlier violating prompts.

import { $, $$, api, el, html, keys, percent, toast } from "./puna.js";
import { blur, conversation, marks } from "./redteam_parts.js";

const { id } = $("#replay").dataset;
const queue = $("#queue");

async function mark(card, points) {
  if (!card || card.getAttribute("aria-busy") === "true") return;
  card.setAttribute("aria-busy", "true");
  try {
    await api("PUT", `/api/redteam/lines/${card.dataset.id}`, { points });
    await load();
  } catch (error) {
    card.setAttribute("aria-busy", "false");
    toast(error.message, "bad");
  }
}

function card(line) {
  const made = el("article", { class: "card stack draft", data: { id: line.id } },
    el("header", { class: "spread" }, el("h2", { text: `${line.risk}, by ${line.vector}` }),
      line.rule && el("span", { class: "badge info", text: `a rejection by “${line.rule}”` })),
    conversation([...line.messages, { role: "assistant", html: line.answer }]),
    marks(null, (points) => mark(made, points)));
  return made;
}

function words(found) {
  const parts = [`${found.answered} of ${found.prompts} answered`, `${found.marked} judged`
    + (found.by_rule ? `, ${found.by_rule} of them by a phrase` : "")];
  if (found.share !== null) {
    parts.push(`${percent(found.share)} rejected (${percent(found.low)} to ${percent(found.high)})`);
  }
  return parts.join(" · ");
}

async function load() {
  const found = await api("GET", `/api/redteam/replays/${id}`);
  $("#standing").textContent = words(found);
  queue.replaceChildren(...found.lines.slice(0, 1).map(card));
  if (!found.lines.length) {
    const waits = found.answered < found.prompts;
    queue.append(el("div", { class: "empty" }, el("p", { text: waits
      ? "No answer waits. Ask the model first, on the results page." : "All answers are judged." })));
  }
}

keys(Object.fromEntries([1, 2, 3, 4, 5].map((points) =>
  [String(points), [() => mark($$(".draft", queue)[0], points), "Judge the answer"]])),
{ when: () => Boolean($(".draft", queue)) });
blur();
load().catch((error) => toast(error.message, "bad"));
