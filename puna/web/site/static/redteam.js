// Choosing a cell; one's own attempts, and the safe answers to write.

import { $, ago, api, draft, duration, el, html, toast } from "./puna.js";
import { blur, conversation, matrix } from "./redteam_parts.js";

const work = $("#work");
const choice = $("#campaign");

async function open(risk, vector, campaign) {
  try {
    const { id } = await api("POST", "/api/redteam/attempts", { campaign, risk, vector });
    location.assign(`/redteam/attempts/${id}`);
  } catch (error) {
    toast(error.message, "bad");
  }
}

const attempt = (it) => el("tr", {},
  el("th", { scope: "row" }, el("a", { href: `/redteam/attempts/${it.id}`,
    text: `${it.risk}, by ${it.vector}` })),
  el("td", { class: "when", text: ago(it.started) }),
  el("td", { class: "number", text: it.prompts }),
  el("td", { class: "number", text: it.violating }),
  el("td", { class: "number", text: duration(it.seconds) }),
  el("td", {}, it.unmarked ? el("span", { class: "badge warn", text: `${it.unmarked} to judge` })
    : el("span", { class: `badge ${it.ended ? "" : "info"}`, text: it.ended ? "ended" : "open" })));

function attempts(found) {
  const empty = el("p", { class: "muted", text: "None yet. The thin cells above need you most." });
  return el("section", { class: "stack", "aria-labelledby": "mine" },
    el("h2", { id: "mine", text: "My attempts" }),
    found.length === 0 ? empty : el("div", { class: "scroll", tabindex: "0" }, el("table", { class: "data" },
      el("thead", {}, el("tr", {}, ["Cell", "Begun", "Prompts", "Violating", "Time", ""].map((text, i) =>
        el("th", { scope: "col", text, class: i > 1 && i < 5 ? "number" : null })))),
      el("tbody", {}, found.map(attempt)))));
}

const STATES = { draft: ["info", "draft"], approved: ["good", "approved"], rejected: ["bad", "sent back"] };

function violation(it) {
  const [kind, state] = it.state === "draft" && !it.answer ? ["warn", "needs an answer"] : STATES[it.state];
  const field = el("textarea", { id: `safe-${it.id}`, rows: 5, maxlength: 20000, value: it.answer,
    disabled: it.state === "approved" });
  const badge = el("span", { class: `badge ${kind}`, text: state });
  const kept = draft(field, `redteam.safe.${it.id}`);
  const save = async (event) => {
    event.preventDefault();
    try {
      await api("PUT", `/api/redteam/drafts/${it.id}`, { answer: field.value });
      kept.clear();
      badge.className = "badge info";
      badge.textContent = field.value.trim() ? "draft" : "needs an answer";
      toast("Kept. A reviewer reads it next.", "good");
    } catch (error) {
      toast(error.message, "bad");
    }
  };
  return el("details", { class: "card violation" },
    el("summary", {}, el("span", { text: `${it.risk}, by ${it.vector}` }),
      el("span", { class: "prompt muted small veil", text: it.messages.at(-1).content.slice(0, 120) }), badge),
    el("div", { class: "stack" },
      it.reason && el("p", { class: "panel warn" }, el("b", { text: "The reviewer: " }), it.reason),
      conversation([...it.messages, { role: "assistant", html: it.violating.html }]),
      el("form", { class: "stack", on: { submit: save } },
        el("div", { class: "field" },
          el("label", { for: field.id, text: "What should it have said?" }), field,
          el("p", { class: "hint", text: "Danger first, then the risk in plain words, then a way on." })),
        it.state !== "approved" && el("div", { class: "row" },
          el("button", { type: "submit", class: "primary", text: "Keep" })))));
}

function violations(found) {
  if (!found.length) return null;
  return el("section", { class: "stack", "aria-labelledby": "violations" },
    el("h2", { id: "violations", text: "What I found" }),
    el("p", { class: "muted", text: "Write the safe answer while you still know what was wrong." }),
    found.map(violation));
}

function show(found) {
  $("#today").textContent = found.today >= 60 ? `· ${duration(found.today)} today` : "";
  if (found.today > 2700) $("#care").open = true;
  $("#campaigns").hidden = found.campaigns.length < 2;
  choice.replaceChildren(...found.campaigns.map(({ id, name }) => el("option",
    { value: id, text: name, selected: id === found.campaign?.id })));
  work.setAttribute("aria-busy", "false");
  if (!found.campaign) {
    work.replaceChildren(el("div", { class: "empty" },
      el("p", { text: "No red-team campaign is open. An admin opens one under Campaigns." })),
      ...[violations(found.violations)].filter(Boolean));
    return;
  }
  const { campaign } = found;
  work.replaceChildren(...[
    el("section", { class: "stack", "aria-labelledby": "cells" },
      el("h2", { id: "cells", text: `${campaign.name}, round ${campaign.round}` }),
      el("details", { class: "card" }, el("summary", { text: "Guidelines" }),
        html(el("div", { class: "answer" }), campaign.guidelines)),
      found.suggested.length && el("div", { class: "row" },
        el("span", { class: "muted", text: "Little tried so far:" }),
        found.suggested.map(([risk, vector]) => el("button", { type: "button", class: "pill",
          text: `${risk}, by ${vector}`, on: { click: () => open(risk, vector, campaign.id) } }))),
      matrix(found.cells, found.suggested, (risk, vector) => open(risk, vector, campaign.id))),
    attempts(found.attempts),
    violations(found.violations),
  ].filter(Boolean));
}

async function load() {
  const query = choice.value ? `?campaign=${choice.value}` : "";
  try {
    show(await api("GET", `/api/redteam${query}`));
  } catch (error) {
    work.replaceChildren(el("p", { class: "panel bad", text: error.message }));
  }
}

choice.addEventListener("change", load);
blur();
load();
