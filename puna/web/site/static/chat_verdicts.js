// What somebody thinks of an answer, and which of two is better.

import { api, dialog, el, toast } from "./puna.js";

const words = (name) => name.replaceAll("_", " ");

/** Ask why, and how it would have been better. -> the thumb as it stands, or undefined */
export async function askThumb(turn, up, known) {
  if (turn.thumb?.up === up) {
    await api("DELETE", `/api/chat/turns/${turn.id}/thumb`, {});
    return null;
  }
  const path = `/api/chat/turns/${turn.id}/thumb`;
  const kept = await api("PUT", path, { up, reasons: [] }); // one click counts
  const boxes = known.map((name) => [name, el("input", { type: "checkbox", value: name })]);
  const comment = el("textarea", { rows: 2, maxlength: 20000, id: "thumb-comment" });
  const rewrite = el("textarea", { rows: 5, maxlength: 200000, id: "thumb-rewrite" });
  const error = el("p", { class: "error", role: "alert" });
  let told = kept;
  const send = async (event) => {
    event.preventDefault();
    try {
      told = await api("PUT", path, { up, comment: comment.value, rewrite: rewrite.value,
        reasons: boxes.filter(([, box]) => box.checked).map(([name]) => name) });
      shown.close();
      toast("Thank you.", "good");
    } catch (failure) {
      error.textContent = failure.message;
    }
  };
  const take = () => {
    rewrite.value = turn.text;
    rewrite.focus();
  };
  const shown = el("dialog", { "aria-labelledby": "thumb-title" },
    el("form", { class: "stack", on: { submit: send } },
      el("h2", { id: "thumb-title", text: up ? "What was good?" : "What was wrong?" }),
      el("fieldset", { class: "choices" }, el("legend", { text: "Reasons" }),
        boxes.map(([name, box]) => el("label", {}, box, words(name)))),
      el("div", { class: "field" }, el("label", { for: "thumb-comment", text: "Comment" }), comment),
      el("div", { class: "field" },
        el("label", { for: "thumb-rewrite", text: "How it should have been answered" }), rewrite,
        el("span", { class: "hint", text: "A better answer of yours becomes an example to learn from." }),
        el("button", { type: "button", class: "quiet", text: "Begin with the model's answer",
          on: { click: take } })),
      error,
      el("div", { class: "row end" },
        el("button", { type: "button", text: "Not now", on: { click: () => shown.close() } }),
        el("button", { class: "primary", text: "Send" }))));
  await dialog(shown);
  return told;
}

/** Below two answers: which is better, by how much. `chosen(record)` gets the conversation. */
export function verdict(first, second, strengths, chosen) {
  if (first.text.trim() === second.text.trim()) {
    return el("p", { class: "verdict card", role: "status",
      text: "Both say the same. Write on, or ask for another answer of one of them." });
  }
  const error = el("p", { class: "error", role: "alert" });
  const pick = async (better, worse, strength) => {
    try {
      const body = { chosen_id: better.id, rejected_id: worse.id, strength };
      chosen(await api("POST", "/api/chat/choice", body));
      toast("Kept. The conversation goes on with the one you chose.", "good");
    } catch (failure) {
      error.textContent = failure.message;
    }
  };
  const scale = (better, worse, side, order) => el("div", { class: "scale", role: "group",
    "aria-label": `The ${side} one is better` },
  order.map((strength) => el("button", { type: "button", class: "pill", text: words(strength),
    "aria-label": `${side}: ${words(strength)}`, on: { click: () => pick(better, worse, strength) } })));
  return el("div", { class: "verdict card" },
    el("strong", { text: "Which answer is better?" }),
    el("div", { class: "split" },
      el("div", { class: "stack" }, el("span", { class: "small muted", text: "The first one is" }),
        scale(first, second, "first", strengths)),
      el("div", { class: "stack" }, el("span", { class: "small muted", text: "The second one is" }),
        scale(second, first, "second", strengths))),
    el("span", { class: "small muted", text: "Or write on: the first one is then gone on with." }),
    error);
}
