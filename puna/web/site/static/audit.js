// The audit log, page by page.

import { $, ago, api, el, toast } from "./puna.js";

const action = $("#action");
const account = $("#account");
let oldest = null;

/** The newest lines, or those that follow what is shown. */
async function load(more) {
  const query = new URLSearchParams();
  if (action.value) query.set("action", action.value);
  if (account.value) query.set("account", account.value);
  if (more && oldest !== null) query.set("before", oldest);
  const told = await api("GET", `/api/audit?${query}`);
  const rows = told.lines.map(row);
  if (more) $("#lines").append(...rows);
  else $("#lines").replaceChildren(...rows);
  oldest = told.lines.at(-1)?.id ?? oldest;
  $("#older").hidden = !told.more;
  $("#none").hidden = $("#lines").children.length > 0;
  fill(action, told.actions.map((name) => [name, name.replaceAll("_", " ")]));
}

function fill(select, options) {
  const known = new Set([...select.options].map((option) => option.value));
  select.append(...options.filter(([value]) => !known.has(String(value)))
    .map(([value, text]) => el("option", { value, text })));
}

function row(line) {
  const when = new Date(line.at * 1000);
  const detail = Object.entries(line.detail).map(([name, value]) => `${name}: ${value}`).join(", ");
  return el("tr", {},
    el("td", {}, el("time", { datetime: when.toISOString(), title: when.toLocaleString(),
      text: ago(line.at) })),
    el("td", {}, el("bdi", { text: line.name || (line.account_id ? `#${line.account_id}` : "–") })),
    el("td", {}, el("span", { text: line.action.replaceAll("_", " "),
      class: /denied|failed/.test(line.action) ? "badge warn" : "badge" })),
    el("td", {}, el("bdi", { text: [line.object, detail].filter(Boolean).join(" · ") })),
    el("td", {}, el("span", { class: "mono", text: line.address })));
}

const tell = (error) => toast(error.message, "bad");

for (const select of [action, account]) select.addEventListener("change", () => load().catch(tell));
$("#older").addEventListener("click", () => load(true).catch(tell));
api("GET", "/api/people")
  .then(({ people }) => fill(account, people.map((one) => [one.id, one.name])))
  .then(() => load())
  .catch(tell);
