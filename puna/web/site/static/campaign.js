// One campaign: how far it is, its items, its people, its rules.

import { $, $$, ago, api, confirm, duration, el, html, number, percent, toast } from "./puna.js";

const root = $("#campaign");
const id = root.dataset.campaign;
const admin = Boolean(root.dataset.admin);
const PARTS = ["done", "ready", "preparing", "failed"];
const PURPOSES = { normal: "work", gold: "gold", qualification: "test" };
const TONES = { ready: "good", failed: "bad", preparing: "warn", closed: "" };
let campaign = null;

async function act(deed) {
  try {
    await deed();
    await load();
  } catch (error) {
    toast(error.message, "bad");
  }
}

function button(text, kind, deed) {
  return el("button", { type: "button", class: kind, text, on: { click: () => act(deed) } });
}

/** Parts of judgements: done, wanted of ready items, being prepared, failed. */
function bar(counts) {
  const people = campaign.overlap;
  const waiting = counts.preparing * people;
  const parts = { done: counts.done, ready: Math.max(counts.wanted - counts.done - waiting, 0),
    preparing: waiting, failed: counts.failed * people };
  const words = `${counts.done} judged, ${counts.ready} items ready, ${counts.preparing} being `
    + `prepared, ${counts.failed} failed`;
  const shown = el("div", { class: "bar", role: "img", "aria-label": words, title: words });
  for (const name of PARTS) {
    const part = el("span", { class: name });
    part.style.setProperty("--part", parts[name]);
    shown.append(part);
  }
  return shown;
}

const stat = (value, text) => el("div", { class: "stat" }, el("span", { text: value }),
  el("span", { text }));

function head() {
  const { state, kind, aim } = campaign;
  const tone = { draft: "info", open: "good" }[state] ?? "";
  $("#badges").replaceChildren(
    el("span", { class: `badge ${tone}`, text: state }), el("span", { class: "badge", text: kind }),
    el("span", { class: "badge", text: aim }));
  const turn = async (to, question) => {
    if (!question || await confirm(question, { yes: "Close it", danger: true })) {
      await api("POST", `/api/campaigns/${id}/state`, { state: to });
      toast(to === "open" ? "Annotators can begin." : "The campaign is closed.", "good");
    }
  };
  const results = kind === "redteam" ? null
    : el("a", { class: "button", href: `/quality?campaign=${id}`, text: "Agreement" });
  const review = campaign.settings.review_share
    ? el("a", { class: "button", href: `/review?campaign=${id}`, text: "Review" }) : null;
  $("#actions").replaceChildren(...[results, review].filter(Boolean));
  if (!admin) return;
  $("#actions").append(el("a", { class: "button", href: `/campaigns/${id}/edit`, text: "Change" }));
  if (kind === "redteam" && state !== "closed") {
    $("#actions").append(button("Next round", "", nextRound));
  }
  $("#actions").append(state === "open"
    ? button("Close", "danger", () => turn("closed", "Close this campaign? Nobody is given more "
      + "of its items; what people hold now is refused."))
    : button(state === "draft" ? "Open" : "Open again", "primary", () => turn("open")));
}

async function nextRound() {
  const { name, kind, aim, guidelines, overlap, quota, lease_seconds, max_turns, own_prompts,
    gold_share, pass_mark, variants, settings } = campaign;
  const round = (settings.round ?? 1) + 1;
  await api("PUT", `/api/campaigns/${id}`, { name, kind, aim, guidelines, overlap, quota,
    lease_seconds, max_turns, own_prompts, gold_share, pass_mark, variants,
    settings: { ...settings, round } });
  toast(`Round ${round} begins.`, "good");
}

function batchCard(batch) {
  const { counts } = batch;
  const extra = [counts.gold && `${counts.gold} gold`,
    counts.qualification && `${counts.qualification} of the test`].filter(Boolean);
  const left = Object.entries(batch.left_out);
  const lost = left.reduce((sum, [, times]) => sum + times, 0);
  const failures = Object.entries(batch.failures);
  return el("article", { class: "card stack tight" },
    el("div", { class: "spread" },
      el("h2", { class: "lesser", text: `Batch ${batch.number}` }),
      el("span", { class: "muted small", text: [batch.source, ago(batch.created)].filter(Boolean)
        .join(", ") })),
    counts.items ? bar(counts) : null,
    el("p", { class: "small", text: [
      counts.items ? `${number(counts.done)} of ${number(counts.wanted)} judgements, `
        + `${number(counts.items)} items` : "", ...extra].filter(Boolean).join(", ") }),
    failures.length ? el("p", { class: "small" }, el("span", { class: "badge bad", text: "failed" }),
      ` ${failures.map(([why, times]) => `${why} (${times})`).join(", ")}`) : null,
    lost ? el("details", { class: "small" },
      el("summary", { text: `${number(lost)} ${lost === 1 ? "line was" : "lines were"} left out` }),
      el("ul", {}, left.map(([why, times]) => el("li", { text: `${why}: ${times}` })))) : null);
}

function progress() {
  const shown = $("#progress");
  const { counts, batches, kind } = campaign;
  shown.setAttribute("aria-busy", "false");
  if (kind === "redteam") {
    shown.replaceChildren(el("div", { class: "card stack" },
      el("p", {}, `Round ${campaign.settings.round ?? 1}. `,
        el("a", { href: "/redteam", text: "Attempts and robustness are on the red-team page." }))));
    return;
  }
  if (!batches.length) {
    shown.replaceChildren(el("div", { class: "empty" },
      el("p", { text: campaign.own_prompts ? "No items yet. Annotators write their prompts; you can "
        + "add some ahead." : "No items yet. Add a batch of prompts, then open the campaign." }),
      admin ? button("Add items", "primary", async () => choose("add")) : null));
    return;
  }
  const again = admin && counts.failed && campaign.state !== "closed"
    ? button(`Try ${counts.failed} failed again`, "", async () => {
      await api("POST", `/api/campaigns/${id}/retry`, {});
    }) : null;
  const keys = el("p", { class: "row small muted" }, [["done", "judged"], ["ready", "ready"],
    ["preparing", "being prepared"], ["failed", "failed"]].map(([name, text]) =>
    el("span", { class: `key ${name}`, text })));
  shown.replaceChildren(
    el("div", { class: "card stack" },
      el("div", { class: "stats" },
        stat(percent(counts.wanted ? counts.done / counts.wanted : 0, 0), "judged"),
        stat(number(counts.done), `of ${number(counts.wanted)} judgements`),
        stat(number(counts.ready), "items ready"),
        stat(number(counts.preparing), "being prepared"),
        stat(number(campaign.people.length), "people")),
      bar(counts), el("div", { class: "spread" }, keys, again)),
    el("div", { class: "grid" }, batches.map(batchCard)));
}

function test(person) {
  const { test: found } = person;
  if (!found) return el("span", { class: "muted", text: campaign.pass_mark ? "not begun" : "–" });
  const words = `${found.right} of ${found.answered} right`;
  if (found.passed === null) return el("span", { text: `${words} so far` });
  return el("span", { class: `badge ${found.passed ? "good" : "bad"}`,
    text: `${found.passed ? "passed" : "failed"}, ${words}` });
}

function people() {
  const found = campaign.people;
  if (!found.length) {
    $("#people").replaceChildren(el("div", { class: "empty" }, el("p", { text: "Nobody has begun." })));
    return;
  }
  const cell = (text, name = "number") => el("td", { class: name, text });
  const rows = found.map((person) => el("tr", {},
    el("th", { scope: "row", text: person.name }),
    cell(campaign.quota ? `${person.done} of ${campaign.quota}` : number(person.done)),
    cell(number(person.rejected)), cell(number(person.skipped)), cell(number(person.now)),
    cell(duration(person.done + person.rejected
      ? person.seconds / (person.done + person.rejected) : null)),
    el("td", {}, test(person)), cell(ago(person.last), "")));
  const names = ["Judged", "Rejected", "Skipped", "In hand", "Each takes"];
  $("#people").replaceChildren(el("div", { class: "scroll", tabindex: "0" }, el("table", { class: "data" },
    el("thead", {}, el("tr", {}, el("th", { text: "Person" }),
      names.map((text) => el("th", { class: "number", text })),
      el("th", { text: "Test" }), el("th", { text: "Last" }))),
    el("tbody", {}, rows))));
}

function rules() {
  const { settings, variants } = campaign;
  const pairs = [
    ["People for each item", campaign.overlap],
    ["Items for each person", campaign.quota || "as many as there are"],
    ["Time for one item", duration(campaign.lease_seconds)],
    ["Longest conversation", `${campaign.max_turns} turns`],
    ["Own prompts", campaign.own_prompts ? "yes" : "no"],
    ["Test", campaign.pass_mark ? `pass mark ${percent(campaign.pass_mark, 0)}` : "none"],
    ["Gold items", campaign.gold_share ? percent(campaign.gold_share, 0) : "none"],
    ["Reviewed", settings.review_share ? percent(settings.review_share, 0) : "none"],
    ["Longest prompt", settings.context_tokens ? `${settings.context_tokens} tokens` : null],
    ["Round", settings.round ?? null],
    ...variants.map((one, place) => [`Variant ${place + 1}`, `${one.model || "none"}, temperature `
      + `${one.temperature}, top-p ${one.top_p}, ${one.max_tokens} tokens`]),
    ...["categories", "risks", "vectors"].map((name) => [name[0].toUpperCase() + name.slice(1),
      settings[name]?.join(", ")]),
  ];
  $("#rules-list").replaceChildren(...pairs.filter(([, value]) => value !== null
    && value !== undefined).map(([name, value]) => el("div", {}, el("dt", { text: name }),
    el("dd", { text: value }))));
  html($("#guidelines"), campaign.guidelines_html);
}

function itemRow(item) {
  return el("tr", {},
    el("th", { scope: "row" }, el("a", { href: `/campaigns/${id}/items/${item.id}`, text: item.id })),
    el("td", { class: "prompt-cell" }, el("bdi", { text: item.prompt }),
      item.failure ? el("p", { class: "error", text: item.failure }) : null,
      item.category ? el("p", { class: "muted small", text: item.category }) : null),
    el("td", {}, el("span", { class: `badge ${TONES[item.state]}`, text: item.state })),
    el("td", { text: PURPOSES[item.purpose] }), el("td", { class: "number", text: item.turns }),
    el("td", { class: "number", text: item.wanted ? `${item.judged} of ${item.wanted}` : item.judged }));
}

let last = 0;
async function items(more = false) {
  const query = new URLSearchParams({ after: more ? last : 0 });
  for (const name of ["state", "purpose", "batch"]) if ($(`#${name}`).value) query.set(name, $(`#${name}`).value);
  try {
    const told = await api("GET", `/api/campaigns/${id}/items?${query}`);
    const rows = told.items.map(itemRow);
    if (!rows.length && !more) {
      rows.push(el("tr", {}, el("td", { colspan: 6, class: "muted", text: "No such items." })));
    }
    if (more) $("#rows").append(...rows);
    else $("#rows").replaceChildren(...rows);
    last = told.items.at(-1)?.id ?? last;
    $("#more").hidden = !told.more;
  } catch (error) {
    toast(error.message, "bad");
  }
}

function choose(name) {
  for (const tab of $$("[role=tab]")) {
    const chosen = tab.getAttribute("aria-controls") === name;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    $(`#${tab.getAttribute("aria-controls")}`).hidden = !chosen;
  }
  history.replaceState(null, "", name === "progress" ? location.pathname : `#to-${name}`);
  if (name === "items") items();
}

let later = 0;
export async function load() {
  clearTimeout(later);
  try {
    ({ campaign } = await api("GET", `/api/campaigns/${id}`));
  } catch (error) {
    toast(error.message, "bad");
    return;
  }
  head();
  progress();
  people();
  rules();
  $("#paused").hidden = !(campaign.paused && campaign.counts.preparing);
  $("#paused").textContent = `Preparing items pauses: ${campaign.paused}. It goes on by itself.`;
  const batch = $("#batch");
  if (batch.options.length !== campaign.batches.length + 1) {
    const kept = batch.value;
    batch.replaceChildren(el("option", { value: "", text: "all" }),
      ...campaign.batches.map((one) => el("option", { value: one.number, text: one.number })));
    batch.value = kept;
  }
  dispatchEvent(new CustomEvent("campaign", { detail: campaign }));
  if (campaign.counts.preparing && campaign.state !== "closed") {
    later = setTimeout(() => (document.hidden ? null : load()), 3000);
  }
}

const tabs = $$("[role=tab]");
for (const tab of tabs) tab.addEventListener("click", () => choose(tab.getAttribute("aria-controls")));
$("[role=tablist]").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const next = tabs.at((tabs.indexOf(document.activeElement) + step) % tabs.length);
  next.focus();
  choose(next.getAttribute("aria-controls"));
});
for (const name of ["state", "purpose", "batch"]) $(`#${name}`).addEventListener("change", () => items());
$("#more").addEventListener("click", () => items(true));
addEventListener("visibilitychange", () => document.hidden || load());
const asked = location.hash.replace("#to-", "");
if (tabs.some((tab) => tab.getAttribute("aria-controls") === asked)) choose(asked);
load();
