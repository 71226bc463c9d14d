// Gamma by round, by risk, by vector, by version; coverage; earlier prompts asked again.

import { $, api, ago, chart, duration, el, number, percent, stream, toast } from "./puna.js";
import { matrix } from "./redteam_parts.js";

const figures = $("#figures");
const choice = $("#campaign");

const LITTLE = 0.1; // hours, below which a rate says nothing
const interval = (it) => (it.hours < LITTLE ? "less than six minutes of work"
  : it.low === null ? "no interval: one person"
    : `95 %: ${number(it.low, 2)} to ${number(it.high, 2)}`);
const rate = (it) => (it.hours < LITTLE ? "–" : number(it.value, 2));
const stat = (value, words) => el("div", { class: "stat" }, el("span", { text: value }),
  el("span", { text: words }));

function table(name, rows) {
  const head = [name, "γ", "95 % interval", "Violating", "Hours", "People"];
  return el("div", { class: "scroll", tabindex: "0" }, el("table", { class: "data" },
    el("thead", {}, el("tr", {}, head.map((text, i) => el("th",
      { scope: "col", text, class: i ? "number" : null })))),
    el("tbody", {}, rows.map((it) => el("tr", {},
      el("th", { scope: "row", text: it.name }),
      el("td", { class: "number", text: rate(it) }),
      el("td", { class: "number",
        text: it.low === null || it.hours < LITTLE ? "–" : `${number(it.low, 2)} – ${number(it.high, 2)}` }),
      el("td", { class: "number", text: it.violating }),
      el("td", { class: "number", text: number(it.hours, 2) }),
      el("td", { class: "number", text: it.people }))))));
}

const links = (title, numbers) => numbers.length > 0 && el("p", { class: "row small" },
  el("span", { class: "muted", text: title }),
  numbers.map((it) => el("a", { href: `/redteam/attempts/${it}`, text: `#${it}` })));

function show(found) {
  $("#waiting").textContent = found.drafts.draft;
  $("#before").value = Math.max(2, Number($("#before").value), found.newest_round);
  choice.replaceChildren(el("option", { value: "", text: "All" }), ...found.campaigns.map(({ id, name }) =>
    el("option", { value: id, text: name, selected: id === found.campaign })));
  const [first, end] = found.paper.gamma;
  const picture = el("div");
  const parts = [
    el("div", { class: "card stats" },
      stat(rate(found.gamma), `γ, violating prompts per person and hour (${interval(found.gamma)})`),
      stat(found.gamma.violating, `violating of ${found.prompts} prompts, ${found.attempts} attempts`),
      stat(duration(found.gamma.hours * 3600), `of work, ${found.gamma.people} people`),
      stat(found.unmarked, "answers not judged; they count as safe until they are")),
    el("section", { class: "card stack" }, picture,
      el("p", { class: "small muted", text: `Lower is harder to break. The paper's 7B model went from `
        + `${first} to ${end} over several rounds. Intervals: bootstrap over people. No rate is given for less than six minutes.` }),
      table("Round", found.by.round)),
    found.cells.length && el("section", { class: "stack", "aria-labelledby": "coverage" },
      el("h2", { id: "coverage", text: `Coverage of ${found.matrix_of}` }),
      matrix(found.cells, found.suggested, null)),
    el("section", { class: "stack" }, el("h2", { text: "Where it gives way" }),
      table("Risk", found.by.risk), table("Vector", found.by.vector),
      table("Model and version", found.by.model)),
    el("section", { class: "stack" }, links("Attempts with violations:", found.violations),
      links("Attempts with answers to judge:", found.unfinished)),
  ].filter(Boolean);
  figures.replaceChildren(...parts);
  figures.setAttribute("aria-busy", "false");
  chart(picture, { kind: "line", title: "Robustness γ by round", x: "round", y: "violations per person and hour",
    aim: end, series: [{ name: "γ", values: found.by.round.filter((it) => it.hours >= LITTLE).map((it) => [it.name, it.value, it.low, it.high]) }] });
  $("#replays").replaceChildren(...replays(found.replays));
}

function replays(found) {
  if (!found.length) return [];
  return [el("div", { class: "scroll", tabindex: "0" }, el("table", { class: "data" },
    el("thead", {}, el("tr", {}, ["Model", "Made", "Prompts", "Answered", "Judged", "Rejected", ""]
      .map((text, i) => el("th", { scope: "col", text, class: i > 1 && i < 6 ? "number" : null })))),
    el("tbody", {}, found.map(replay))))];
}

function replay(it) {
  const share = it.share === null ? "–"
    : `${percent(it.share)} (${percent(it.low, 0)} – ${percent(it.high, 0)})`;
  const answered = el("td", { class: "number", text: it.answered });
  return el("tr", {},
    el("th", { scope: "row", text: `${it.model}, rounds before ${it.before}` }),
    el("td", { class: "when", text: ago(it.created) }),
    el("td", { class: "number", text: it.prompts }), answered,
    el("td", { class: "number", text: it.marked }),
    el("td", { class: "number", text: share }),
    el("td", { class: "row" },
      it.answered < it.prompts && el("button", { type: "button", text: it.answered ? "Ask the rest" : "Ask",
        on: { click: (event) => ask(it, event.currentTarget, answered) } }),
      it.answered > 0 && el("a", { class: "button", href: `/redteam/replays/${it.id}`, text: "Judge" })));
}

async function ask(it, button, cell) {
  button.disabled = true;
  button.textContent = "Asking …";
  try {
    await stream(`/api/redteam/replays/${it.id}/ask`, {}, ({ answered }) => {
      cell.textContent = it.answered + answered;
    });
  } catch (error) {
    toast(error.message, "bad");
  }
  load();
}

async function load() {
  try {
    show(await api("GET", `/api/redteam/results${choice.value ? `?campaign=${choice.value}` : ""}`));
  } catch (error) {
    figures.replaceChildren(el("p", { class: "panel bad", text: error.message }));
  }
}

$("#replay").addEventListener("submit", async (event) => {
  event.preventDefault();
  const phrases = $("#phrases").value.split("\n").map((line) => line.trim()).filter((line) => line);
  try {
    await api("POST", "/api/redteam/replays",
      { model: $("#model").value, before: Number($("#before").value), phrases });
    load();
  } catch (error) {
    toast(error.message, "bad");
  }
});
choice.addEventListener("change", load);
load();
