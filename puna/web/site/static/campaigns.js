// The list of campaigns.

import { $, ago, api, el, percent, toast } from "./puna.js";

const KINDS = { preference: "Preference", evaluation: "Evaluation", redteam: "Red team" };
const STATES = { draft: "info", open: "good", closed: "" };

function part(counts) {
  return counts.wanted ? Math.min(counts.done / counts.wanted, 1) : 0;
}

function line(campaign) {
  const { counts, kind } = campaign;
  if (kind === "redteam") {
    const { risks, vectors, round } = campaign.settings;
    return `Round ${round ?? 1}, ${risks.length} risks by ${vectors.length} ways of attack`;
  }
  if (!counts.wanted) return "no items yet";
  const words = [`${counts.done} of ${counts.wanted} judgements`];
  words.push(`${campaign.people} ${campaign.people === 1 ? "person" : "people"}`);
  if (counts.preparing) words.push(`${counts.preparing} being prepared`);
  return words.join(", ");
}

function card(campaign) {
  const { counts } = campaign;
  const judged = campaign.kind !== "redteam" && counts.wanted > 0;
  return el("article", { class: "card campaign", data: { kind: campaign.kind, state: campaign.state } },
    el("div", { class: "row" },
      el("span", { class: "badge", text: KINDS[campaign.kind] }),
      el("span", { class: "badge", text: campaign.aim }),
      el("span", { class: `badge ${STATES[campaign.state]}`, text: campaign.state }),
      counts.failed ? el("span", { class: "badge bad", text: `${counts.failed} failed` }) : null),
    el("h2", {}, el("a", { href: `/campaigns/${campaign.id}`, text: campaign.name })),
    el("p", { class: "muted small", text: line(campaign) }),
    judged ? el("progress", { class: "progress", max: 1, value: part(counts),
      "aria-label": `${percent(part(counts))} judged` }) : null,
    el("p", { class: "muted small", text: `begun ${ago(campaign.created)}` }));
}

async function load() {
  const shown = $("#campaigns");
  try {
    const { campaigns } = await api("GET", "/api/campaigns");
    shown.replaceChildren(...campaigns.map(card));
    if (!campaigns.length) {
      shown.append(el("div", { class: "empty" },
        el("p", { text: "No campaign yet. The first one takes a minute." })));
    }
  } catch (error) {
    toast(error.message, "bad");
  }
  shown.setAttribute("aria-busy", "false");
}

load();
