// The frame of every page: theme, keys, logging out.

import { $$, toast } from "./dom.js";
import { help } from "./keys.js";
import { drafts, forget, recall, remember } from "./memory.js";
import { api } from "./net.js";

const root = document.documentElement;
const dark = matchMedia("(prefers-color-scheme: dark)");
const shown = () => root.dataset.theme ?? (dark.matches ? "dark" : "light");

function named() {
  const other = shown() === "dark" ? "light" : "dark";
  for (const button of $$("[data-act=theme]")) {
    button.setAttribute("aria-label", `Use the ${other} theme`);
    button.title = `Use the ${other} theme`;
  }
}

const acts = {
  theme() {
    const next = shown() === "dark" ? "light" : "dark";
    const system = dark.matches ? "dark" : "light";
    remember("theme", next === system ? null : next); // the system's is followed again
    if (next === system) delete root.dataset.theme;
    else root.dataset.theme = next;
    named();
    dispatchEvent(new Event("themechange"));
  },
  keys: help,
  async logout() {
    try {
      await api("POST", "/api/logout", {});
      forget(`${drafts()}*`);
      location.assign("/");
    } catch (error) {
      toast(error.message, "bad");
    }
  },
};

addEventListener("click", (event) => {
  const act = event.target instanceof Element && event.target.closest("[data-act]")?.dataset.act;
  if (act && acts[act]) acts[act]();
});

// A menu closes when something beside it is pressed, or Escape.
const menus = () => $$("details.menu[open]");
addEventListener("click", (event) => menus().forEach((menu) => {
  const chosen = event.target.closest?.(".menu > :not(summary) :is(a, button)");
  if (!menu.contains(event.target) || chosen) menu.open = false;
}));
addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const menu of menus()) {
    menu.open = false;
    menu.querySelector("summary").focus();
    event.preventDefault();
  }
}, true);

addEventListener("storage", (event) => {
  if (event.key !== "puna.theme") return;
  const theme = recall("theme");
  if (theme) root.dataset.theme = theme;
  else delete root.dataset.theme;
  named();
});
dark.addEventListener("change", named);
named();
