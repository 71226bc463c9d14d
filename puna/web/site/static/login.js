// Logging in again over a page that is open: nothing that was typed is lost.

import { $, dialog, el } from "./dom.js";

let open = null;

/** Ask for name and password. -> whether somebody is logged in now */
export function logIn() {
  open ??= ask().finally(() => {
    open = null;
  });
  return open;
}

async function ask() {
  const root = document.documentElement;
  const field = (name, label, type, autocomplete, value = "") => el("div", { class: "field" },
    el("label", { for: `again-${name}`, text: label }),
    el("input", { id: `again-${name}`, name, type, autocomplete, value, required: true,
      autocapitalize: "none", spellcheck: "false" }));
  const fault = el("p", { class: "error", role: "alert" });
  const enter = el("button", { class: "primary", text: "Log in" });
  const form = el("form", { class: "stack" },
    el("h2", { id: "again", text: "Please log in again" }),
    el("p", { class: "muted", text: "Your session has ended. This page stays as it is." }),
    field("name", "Name", "text", "username", root.dataset.name ?? ""),
    field("password", "Password", "password", "current-password"),
    fault,
    el("div", { class: "row end" },
      el("button", { type: "button", text: "Not now", on: { click: () => shown.close() } }), enter));
  const shown = el("dialog", { "aria-labelledby": "again" }, form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    enter.setAttribute("aria-busy", "true");
    fault.textContent = await tried(new FormData(form));
    enter.removeAttribute("aria-busy");
    if (!fault.textContent) shown.close("in");
    else $("[name=password]", form).select();
  });
  const closed = dialog(shown);
  $(root.dataset.name ? "[name=password]" : "[name=name]", form).focus();
  return (await closed) === "in";
}

/** "" if it worked, else why not. */
async function tried(form) {
  try {
    const response = await fetch("/api/login", {
      method: "POST",
      headers: { "content-type": "application/json", "x-csrf": "" },
      body: JSON.stringify({ name: form.get("name"), password: form.get("password") }),
    });
    const answer = await response.json().catch(() => ({}));
    if (!response.ok) return answer.error?.message ?? "That did not work.";
  } catch {
    return "The server cannot be reached.";
  }
  return await settled();
}

/** Take the new session's token from a page of it; another person gets a page of their own. */
async function settled() {
  const text = await (await fetch("/")).text();
  const said = (name) => text.match(`<html [^>]*data-${name}="([\\w-]*)"`)?.[1] ?? "";
  if (!said("csrf")) return "That did not work.";
  const { dataset } = document.documentElement;
  if (dataset.viewer !== said("viewer")) location.reload();
  dataset.csrf = said("csrf");
  return "";
}
