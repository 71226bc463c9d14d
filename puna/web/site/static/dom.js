// Elements, messages, dialogs.

const SVG = "http://www.w3.org/2000/svg";
const policy = window.trustedTypes?.createPolicy("puna", { createHTML: (text) => text });

export const $ = (selector, root = document) => root.querySelector(selector);
export const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

/**
 * A new element. `class`, `text`, `on: {click: f}`, `data: {name: value}`; properties that have no
 * attribute (value, checked) are set; true is an empty attribute; false and null are left out.
 * Children are elements or text.
 */
export function el(tag, given = {}, ...children) {
  const made = document.createElement(tag);
  const { class: names, text, on = {}, data = {}, ...others } = given ?? {};
  if (names) made.className = names;
  if (text !== undefined && text !== null) made.textContent = String(text);
  for (const [event, listener] of Object.entries(on)) made.addEventListener(event, listener);
  Object.assign(made.dataset, data);
  made.append(...children.flat().filter((child) => child !== null && child !== undefined
    && child !== false));
  for (const [name, value] of Object.entries(others)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "value" || name === "checked" || name === "selected") made[name] = value;
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  return made;
}

/** One of the pictures of icons.svg, such as glyph("chat"); the element beside it says what it is. */
export function glyph(name) {
  const drawn = document.createElementNS(SVG, "svg");
  drawn.setAttribute("class", "glyph");
  drawn.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `/static/icons.svg#${name}`);
  drawn.append(use);
  return drawn;
}

/** Put HTML into an element that the server made of Markdown and sanitised; nothing else. */
export function html(element, fromServer) {
  element.innerHTML = policy ? policy.createHTML(fromServer) : fromServer;
  return element;
}

/** Say something in passing. Screen readers hear it; a fault stays until it is put away. */
export function toast(text, kind = "info") {
  const shown = $("#toasts");
  const put_away = () => said.remove();
  const said = el("div", { class: `toast ${kind}`, role: kind === "bad" ? "alert" : "status" },
    el("span", { text }),
    el("button", { type: "button", class: "quiet icon", "aria-label": "Put away",
      on: { click: put_away } }, glyph("close")));
  if (!shown) return said;
  while (shown.children.length >= 3) shown.firstElementChild.remove();
  for (const other of shown.children) if ($("span", other).textContent === text) other.remove();
  shown.append(said);
  if (shown.popover && shown.showPopover) {
    if (shown.matches(":popover-open")) shown.hidePopover();
    shown.showPopover(); // above a dialog that is open
  }
  if (kind !== "bad") setTimeout(put_away, 4000 + 40 * text.length);
  return said;
}

/**
 * Open a <dialog> over the page; one that is in no page is put there and taken out again.
 * -> its returnValue when it closes; the focus is back where it was
 */
export function dialog(element) {
  const before = document.activeElement;
  const guest = !element.isConnected;
  if (guest) document.body.append(element);
  element.returnValue = "";
  element.showModal();
  return new Promise((resolve) => {
    element.addEventListener("close", () => {
      if (guest) element.remove();
      if (before?.isConnected) before.focus({ preventScroll: true });
      resolve(element.returnValue);
    }, { once: true });
  });
}

/** Ask before something that cannot be taken back. -> whether it was meant */
export async function confirm(question, { yes = "Yes", no = "Cancel", danger = false } = {}) {
  const answer = (value, text, kind, first) => el("button", {
    type: "button", class: kind, text, autofocus: first,
    on: { click: () => asked.close(value) },
  });
  const asked = el("dialog", { class: "asked", role: "alertdialog", "aria-labelledby": "asked" },
    el("p", { id: "asked", text: question }),
    el("div", { class: "row end" },
      answer("", no, "", danger),
      answer("yes", yes, danger ? "danger primary" : "primary", !danger)));
  return (await dialog(asked)) === "yes";
}
