// Accounts and invites, for admins.

import { $, ago, api, confirm, dialog, el, glyph, toast } from "./puna.js";

const ROLES = ["annotator", "reviewer", "admin"];
const me = Number(document.documentElement.dataset.viewer);
const form = $("#invite");

form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  $("#fault").textContent = "";
  const { role, note } = form.elements;
  try {
    const { token } = await api("POST", "/api/invites", { role: role.value, note: note.value });
    note.value = "";
    await list();
    await give(token, "The invite", "It works once, for seven days. Whoever opens it first has the account.");
  } catch (error) {
    $("#fault").textContent = error.message;
  }
});

/** Show a link, the only time that anybody can see it. */
async function give(token, title, words) {
  const link = `${location.origin}/welcome#${token}`;
  const place = el("input", { id: "link", value: link, readonly: true, class: "mono",
    on: { focus: () => place.select() } });
  const copy = el("button", { type: "button", class: "primary", autofocus: true,
    on: { click: () => copied(link, place) } }, glyph("copy"), "Copy");
  const shown = el("dialog", { "aria-labelledby": "given" },
    el("h2", { id: "given", text: title }),
    el("p", { text: `${words} Nobody can look it up again, so copy it now.` }),
    el("div", { class: "field" }, el("label", { for: "link", text: "Link" }),
      el("div", { class: "given" }, place, copy)),
    el("div", { class: "row end" },
      el("button", { type: "button", text: "Done", on: { click: () => shown.close() } })));
  await dialog(shown);
}

async function copied(text, place) {
  try {
    await navigator.clipboard.writeText(text);
    toast("Copied.", "good");
  } catch {
    place.select();
    toast("Press Ctrl+C (or Command+C) to copy.");
  }
}

async function list() {
  const { people, invites } = await api("GET", "/api/people");
  $("#people").replaceChildren(...people.map(person));
  if (!form) return;
  $("#invites").replaceChildren(...invites.map(waiting));
  $("#waiting").hidden = invites.length === 0;
}

function waiting(one) {
  return el("tr", {},
    el("th", { scope: "row" }, el("bdi", { text: one.note || "–" })),
    el("td", { text: one.role }), el("td", {}, el("bdi", { text: one.by })),
    el("td", { class: "when", text: ago(one.expires) }),
    el("td", {}, el("div", { class: "row" }, el("button", { type: "button", class: "quiet",
      text: "Withdraw", "aria-label": `Withdraw the invite for ${one.note || one.role}`,
      on: { click: () => act("DELETE", `/api/invites/${one.id}`) } }))));
}

function person(one) {
  const out = one.disabled !== null;
  const role = el("select", { "aria-label": `Role of ${one.name}`, disabled: out,
    on: { change: () => changed(one, role) } },
  ...ROLES.map((name) => el("option", { value: name, text: name, selected: name === one.role })));
  const button = (text, click, kind = "quiet") => el("button", { type: "button", class: kind, text,
    "aria-label": `${text}: ${one.name}`, on: { click } });
  return el("tr", { class: out ? "out" : "" },
    el("th", { scope: "row" }, el("bdi", { text: one.name }),
      one.id === me && el("span", { class: "muted", text: " (you)" }),
      out && el("span", { class: "badge bad", text: "shut out" })),
    el("td", {}, role),
    el("td", { class: "when", text: ago(one.created) }),
    el("td", {}, el("div", { class: "row" },
      !out && form && button("New password link", () => reset(one)),
      out ? button("Let in again", () => act("PUT", `/api/people/${one.id}/disabled`, { disabled: false }))
        : button("Shut out", () => shutOut(one), "danger"))));
}

async function changed(one, select) {
  const own = one.id === me ? " You will have to log in again." : "";
  const question = `Make ${one.name} ${select.value === "reviewer" ? "a" : "an"} ${select.value}?${own}`;
  if (await confirm(question, { yes: "Change the role" })) {
    await act("PUT", `/api/people/${one.id}/role`, { role: select.value });
    if (one.id === me) location.reload();
  } else {
    select.value = one.role;
  }
}

async function shutOut(one) {
  const question = `Shut ${one.name} out? Their sessions end at once; what they judged stays.`;
  if (await confirm(question, { yes: "Shut out", danger: true })) {
    await act("PUT", `/api/people/${one.id}/disabled`, { disabled: true });
  }
}

async function reset(one) {
  try {
    const { token } = await api("POST", `/api/people/${one.id}/reset`, {});
    await give(token, `A new password for ${one.name}`, "The link works once, for a day.");
  } catch (error) {
    toast(error.message, "bad");
  }
}

async function act(method, path, body) {
  try {
    await api(method, path, body);
  } catch (error) {
    toast(error.message, "bad");
  }
  await list().catch((error) => toast(error.message, "bad"));
}

list().catch((error) => toast(error.message, "bad"));
