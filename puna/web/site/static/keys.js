// Keys of a page: one key, one deed; "?" shows them.

import { $, dialog, el } from "./dom.js";
import { recall, remember } from "./memory.js";

const registered = []; // the latest last: it is asked first
const mac = /Mac|iP(hone|ad)/.test(navigator.userAgent);
const TYPING = "input:not([type=checkbox], [type=radio], [type=range], [type=button]), textarea, "
  + "select, [contenteditable=true]";
const PRESSED = "button, a, summary, [role=button]";
const SIGNS = { Escape: "Esc", ArrowUp: "↑", ArrowDown: "↓", ArrowLeft: "←", ArrowRight: "→",
  Enter: "↵", " ": "Space", mod: mac ? "⌘" : "Ctrl", shift: "Shift", alt: mac ? "⌥" : "Alt" };

/**
 * keys({"j": next, "mod+Enter": [send, "Send"]}, {when: () => bool, title: "Answers"})
 * Keys are those of KeyboardEvent.key, after mod+ (Ctrl or Command), alt+, shift+ (of named keys).
 * They rest while somebody types, unless they have mod or are Escape, and under a dialog.
 * With words they are listed under "?". -> a function that takes them back
 */
export function keys(bindings, { when = () => true, title = "On this page" } = {}) {
  const set = { bindings: new Map(Object.entries(bindings)), when, title };
  registered.push(set);
  return () => {
    const place = registered.indexOf(set);
    if (place >= 0) registered.splice(place, 1);
  };
}

function combination(event) {
  const { key } = event;
  const named = key.length > 1 || key === " ";
  return (event.ctrlKey || event.metaKey ? "mod+" : "") + (event.altKey ? "alt+" : "")
    + (event.shiftKey && named ? "shift+" : "") + (named ? key : key.toLowerCase());
}

function rests(event, pressed) {
  const at = event.target instanceof Element ? event.target : document.body;
  const mod = pressed.startsWith("mod+");
  if ($("dialog[open]")) return true;
  if (mod) return false;
  if (at.closest(TYPING)) return pressed !== "Escape";
  if (recall("keys", true) === false && pressed.length === 1) return true;
  if (pressed === "Enter" || pressed === " ") return Boolean(at.closest(PRESSED));
  return pressed.startsWith("Arrow") && at.matches("[type=radio], [type=range]");
}

addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.isComposing || !event.key) return;
  const pressed = combination(event);
  if (rests(event, pressed)) return;
  const exact = event.shiftKey && event.key.length === 1 ? event.key : pressed; // "J" beside "j"
  for (const { bindings, when } of registered.toReversed()) {
    const found = bindings.get(exact) ?? bindings.get(pressed);
    if (!found || !when()) continue;
    event.preventDefault();
    if (!event.repeat || pressed.startsWith("Arrow")) (Array.isArray(found) ? found[0] : found)(event);
    return;
  }
});

/** A combination as <kbd> elements. */
function drawn(combination) {
  const parts = combination === "+" ? ["+"] : combination.split("+");
  return parts.map((part) => el("kbd", { text: SIGNS[part] ?? part }));
}

function help() {
  const groups = new Map();
  for (const { bindings, when, title } of registered) {
    if (!when()) continue;
    for (const [pressed, deed] of bindings) {
      if (!Array.isArray(deed)) continue;
      const words = groups.get(title) ?? groups.set(title, new Map()).get(title);
      words.set(deed[1], [...(words.get(deed[1]) ?? []), pressed]);
    }
  }
  const single = el("input", { type: "checkbox", id: "single-keys", checked: recall("keys", true),
    on: { change: () => remember("keys", single.checked) } });
  const shown = el("dialog", { "aria-labelledby": "keys-title", class: "keys" },
    el("h2", { id: "keys-title", text: "Keys" }),
    ...[...groups].map(([title, words]) => el("section", { class: "stack tight" },
      el("h3", { text: title }),
      el("dl", { class: "pairs" }, [...words].map(([said, combinations]) => el("div", {},
        el("dt", { text: said }),
        el("dd", { class: "row" }, combinations.map((pressed) => el("span", {}, drawn(pressed))))))))),
    el("div", { class: "field" }, single,
      el("label", { for: "single-keys", text: "Single keys do something" })),
    el("div", { class: "row end" },
      el("button", { type: "button", class: "primary", text: "Close", autofocus: true,
        on: { click: () => shown.close() } })));
  dialog(shown);
}

keys({ "?": [help, "Show these keys"] }, { title: "Everywhere" });
export { help };
