// Messages as elements: what was said, how it was written, what can be done with it.

import { $$, el, glyph, html, number, toast } from "./puna.js";

const STATES = {
  length: "The answer is cut: it reached its length.",
  stopped: "Stopped.",
  failed: "The answer failed.",
};

/** A button with a picture; `label` says what it does. */
export function act(name, label, click, more = {}) {
  return el("button", { type: "button", class: "quiet icon", "aria-label": label, title: label,
    on: { click }, ...more }, glyph(name));
}

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    toast("Copied.", "good");
  } catch {
    toast("The browser did not let us copy.", "bad");
  }
}

/** Buttons on blocks of code, and places to put the focus in wide ones. */
function decorated(answer) {
  for (const block of $$("pre", answer)) {
    if (block.parentElement.classList.contains("code") || block.classList.contains("plain")) continue;
    const around = el("div", { class: "code" });
    block.replaceWith(around);
    around.append(block, el("button", { type: "button", text: "Copy", "aria-label": "Copy the code",
      on: { click: () => copy(block.textContent) } }));
  }
  return answer;
}

function branches(turn, deeds) {
  const place = turn.siblings.indexOf(turn.id);
  if (turn.siblings.length < 2) return null;
  const go = (step) => () => deeds.branch(turn.siblings[place + step]);
  return el("span", { class: "branches", role: "group", "aria-label": "Versions" },
    act("left", "The version before", go(-1), { disabled: place === 0, "data-step": "-1" }),
    el("span", { text: `${place + 1}/${turn.siblings.length}` }),
    act("right", "The next version", go(1),
      { disabled: place === turn.siblings.length - 1, "data-step": "1" }));
}

function figures(turn) {
  const { figures: told = {} } = turn;
  const parts = [];
  if (told.tokens_per_second) parts.push(`${number(told.tokens_per_second)} tokens/s`);
  if (told.completion_tokens) parts.push(`${told.completion_tokens} tokens`);
  const line = el("span", { class: "figures", text: parts.join(" · ") });
  if (told.context && told.context_used) {
    const part = Math.min(100, Math.round((100 * told.context_used) / told.context));
    const bar = el("span", {});
    bar.style.setProperty("--part", `${part}%`);
    line.append(parts.length ? " · " : "", `${told.context_used} of ${told.context} in context `,
      el("span", { class: "context", "aria-hidden": "true" }, bar));
  }
  return line;
}

function notes(turn, deeds) {
  const { state, figures: told = {} } = turn;
  const found = [];
  if (told.why) {
    found.push(el("p", { class: "panel warn small note", text: `${told.why}.` }));
  }
  if (STATES[state]) {
    const why = told.failure ? ` ${told.failure}.`
      : told.ended === "deadline" ? " Its time was over." : "";
    const again = turn.text.trim() && !deeds.answered
      ? el("button", { type: "button", class: "quiet", text: "Continue",
        on: { click: () => deeds.goOn(turn) } }) : null;
    found.push(el("p", { class: "small muted note row" },
      el("span", { text: STATES[state] + why }), again));
  }
  return found;
}

function thumbs(turn, deeds) {
  const given = turn.thumb;
  const button = (up) => act(up ? "up" : "down", up ? "A good answer" : "A bad answer",
    () => deeds.thumb(turn, up), { "aria-pressed": String(given ? given.up === up : false) });
  return [button(true), button(false)];
}

/** A message of the person. */
export function userTurn(turn, deeds) {
  const made = el("article", { class: "turn user", "data-id": turn.id, "aria-label": "You" },
    el("div", { class: "said", text: turn.text, dir: "auto" }));
  made.append(el("div", { class: "acts" }, branches(turn, deeds),
    act("copy", "Copy", () => copy(turn.text)),
    act("edit", "Edit, as a new branch", () => editing(made, turn, deeds))));
  return made;
}

function editing(place, turn, deeds) {
  const field = el("textarea", { rows: 4, "aria-label": "Your message", value: turn.text });
  const back = () => place.replaceWith(userTurn(turn, deeds));
  const send = () => field.value.trim() && deeds.edit(turn, field.value);
  field.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      back();
    } else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      event.stopPropagation();
      send();
    }
  });
  place.replaceChildren(field, el("div", { class: "row end" },
    el("button", { type: "button", text: "Cancel", on: { click: back } }),
    el("button", { type: "button", class: "primary", text: "Send as a new branch",
      on: { click: send } })));
  field.focus();
}

function heading(turn) {
  return el("p", { class: "who-wrote" }, el("strong", { text: turn.model || "Assistant" }),
    el("span", { class: "badge", text: "machine" }),
    turn.version ? el("span", { class: "mono", text: turn.version,
      title: "The model's fingerprint: equal as long as nothing of it changed" }) : null,
    turn.settings?.temperature === undefined ? null
      : el("span", { text: `temperature ${turn.settings.temperature}` }));
}

/** An answer that is over, or one that another page sees being written. */
export function answerTurn(turn, deeds) {
  const writing = turn.state === "writing";
  const answer = html(el("div", { class: "answer" }), turn.html);
  const made = el("article", { class: "turn assistant", "data-id": turn.id,
    "aria-label": `Answer of ${turn.model}, a machine`, "aria-busy": String(writing) },
  heading(turn), decorated(answer), notes(turn, deeds));
  if (writing) answer.classList.add("waiting");
  if (!turn.text.trim() && !writing) answer.append(el("p", { class: "muted", text: "No words came." }));
  made.append(el("div", { class: "acts" }, branches(turn, deeds),
    act("copy", "Copy the answer", () => copy(turn.text)),
    act("retry", "Another answer", () => deeds.retry(turn)),
    turn.text.trim() && !writing ? thumbs(turn, deeds) : null, figures(turn)));
  return made;
}

/** An answer while it comes: {root, take(event)}. */
export function liveAnswer(turn) {
  const answer = el("div", { class: "answer waiting" });
  let rest = [];
  const root = el("article", { class: "turn assistant", "data-id": turn.id, "aria-busy": "true",
    "aria-label": `Answer of ${turn.model}, a machine` }, heading(turn), answer);
  const put = (made) => {
    const nodes = [...html(el("div"), made).childNodes];
    answer.append(...nodes);
    return nodes;
  };
  if (turn.text) rest = put(turn.html);
  const grow = (text) => {
    let last = rest.findLast((node) => node.nodeType === Node.ELEMENT_NODE);
    if (!last) {
      last = el("p", { dir: "auto" });
      answer.append(last);
      rest.push(last);
    }
    while (last.lastElementChild && !last.lastElementChild.matches("a, code:not(pre code), del, em, s, "
      + "strong, br, td, th, tr, tbody, thead")) last = last.lastElementChild;
    last.append(text);
  };
  const take = (event) => {
    if (event.text) grow(event.text);
    if (event.rest === undefined) return;
    for (const node of rest) node.remove();
    if (event.over) {
      put(event.over);
      decorated(answer);
    }
    rest = put(event.rest);
  };
  return { root, take };
}
