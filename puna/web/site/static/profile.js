// One's account: password, sessions, data.

import { $, $$, ago, api, confirm, dialog, el, toast } from "./puna.js";

const change = $("#change");
const erasing = $("#erasing");

/** Show what the server says of a form beside the field that it names. */
function faulty(form, error) {
  const known = error.param && $(`[data-fault=${CSS.escape(error.param)}]`, form);
  (known || $('[data-fault=""]', form)).textContent =
    error.message.replace(`${error.param}: `, "");
}

function clear(form) {
  for (const place of $$("[data-fault]", form)) place.textContent = "";
}

change?.addEventListener("submit", async (event) => {
  event.preventDefault();
  clear(change);
  const { old, new: wanted } = change.elements;
  try {
    const told = await api("POST", "/api/password", { old: old.value, new: wanted.value });
    document.documentElement.dataset.csrf = told.csrf;
    change.reset();
    toast("Your password is changed.", "good");
    await list();
  } catch (error) {
    faulty(change, error);
  }
});

async function list() {
  const { sessions } = await api("GET", "/api/sessions");
  $("#sessions").replaceChildren(...sessions.map(row));
  $("#end-others").hidden = sessions.length < 2;
}

function row(one) {
  const end = el("button", { type: "button", class: "quiet", text: "End",
    on: { click: () => act("DELETE", `/api/sessions/${one.id}`) } });
  return el("tr", {},
    el("td", { class: "when", text: ago(one.created) }),
    el("td", { class: "when", text: ago(one.seen) }),
    el("td", {}, one.this ? el("span", { class: "badge good", text: "this one" }) : end));
}

async function act(method, path) {
  try {
    await api(method, path);
    await list();
  } catch (error) {
    toast(error.message, "bad");
  }
}

$("#end-others").addEventListener("click", async () => {
  const sure = await confirm("End all your sessions in other browsers?", { yes: "End them" });
  if (sure) await act("DELETE", "/api/sessions");
});

$("#erase").addEventListener("click", () => dialog(erasing));
$("#keep").addEventListener("click", () => erasing.close());
$("form", erasing).addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  clear(form);
  const { name, password } = form.elements;
  try {
    await api("POST", "/api/me/erase", { name: name.value, password: password?.value ?? "" });
    location.replace("/");
  } catch (error) {
    faulty(form, error);
  }
});

list().catch((error) => toast(error.message, "bad"));
