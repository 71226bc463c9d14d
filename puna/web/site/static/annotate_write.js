// Prompts and next messages that the annotator writes: sent, waited for, taken back.

import { $, api, draft, el, toast, uuid } from "./puna.js";
import { messages } from "./annotate_view.js";

const LOOK = 1200; // milliseconds between two looks whether the answers are there

/** The composer. campaign: its number; ready(): answers are there; left(): next task, please. */
export function composer(campaign, { ready, left }) {
  const text = $("#text");
  const shown = $("#compose");
  let to = null; // the judged task whose conversation goes on; null: a new prompt
  let stored = null; // its judgement, on the way
  let kept = null;
  let timer = 0;
  let known = [];
  let key = uuid();

  function open(task, words, sent) {
    to = task;
    stored = sent;
    key = uuid();
    kept?.clear();
    text.value = "";
    $("#compose-title").textContent = task ? "Go on with the answer you chose" : "Write a prompt";
    $("#text-label").textContent = task ? "Your next message" : "Your prompt";
    $("#so-far").replaceChildren(...(task ? messages(words) : []));
    if ($("#category-field")) $("#category-field").hidden = Boolean(task);
    kept = draft(text, `annotate.${campaign}.${task ?? "new"}`);
    shown.hidden = false;
    text.focus();
    shown.scrollIntoView({ block: "nearest" });
  }

  function close() {
    kept?.save();
    kept = null;
    shown.hidden = true;
  }

  async function ask() {
    const said = text.value.trim();
    if (!said) return text.focus();
    const button = $("#ask");
    button.disabled = true;
    try {
      if (stored && !(await stored)) return toast("Your choice is not stored yet, so the conversation "
        + "cannot go on; your text stays here.", "bad");
      if (to) await api("POST", `/api/annotate/tasks/${to}/message`, { text: said }, { key });
      else await api("POST", `/api/annotate/${campaign}/prompts`,
        { text: said, category: $("#category")?.value ?? "" }, { key });
      kept?.clear();
      text.value = "";
      close();
      await look();
      left();
    } catch (error) {
      key = error.status === 0 ? key : uuid();
      toast(error.message, "bad");
    } finally {
      button.disabled = false;
    }
  }

  async function look() {
    clearTimeout(timer);
    let told = null;
    try {
      told = await api("GET", `/api/annotate/${campaign}/waiting`);
    } catch {
      timer = setTimeout(look, 5 * LOOK);
      return;
    }
    const now = told.waiting.filter((one) => one.state === "preparing").map((one) => one.item);
    const still = new Set(told.waiting.map((one) => one.item));
    if (known.some((item) => !still.has(item))) ready();
    known = now;
    $("#waiting").replaceChildren(...told.waiting.map((one) => line(one, told.away)));
    if (now.length) timer = setTimeout(look, told.away ? 4 * LOOK : LOOK);
  }

  function line(one, away) {
    const failed = one.state === "failed";
    const what = failed ? `No answers to your message: ${one.why}`
      : away ? `The models are away (${away}). Your message is kept and answered when they are back; `
        + "prepared tasks go on meanwhile."
        : "Two answers to your message are being written. They come next.";
    const short = one.text.length > 80 ? `${one.text.slice(0, 80)}…` : one.text;
    return el("div", { class: `panel spread ${failed || away ? "warn" : "info"}` },
      el("span", {}, el("q", { text: short }), ` ${what}`),
      el("button", { type: "button", class: "quiet", text: "Take it back",
        on: { click: () => back(one.item) } }));
  }

  async function back(item) {
    try {
      const { text: said } = await api("DELETE", `/api/annotate/waiting/${item}`);
      known = known.filter((other) => other !== item);
      if (document.documentElement && $("#place").dataset.own === "1") {
        if (shown.hidden) open(null, [], null);
        text.value = said;
        text.dispatchEvent(new Event("input", { bubbles: true }));
      }
    } catch (error) {
      toast(error.message, "bad");
    }
    look();
  }

  $("#ask").addEventListener("click", ask);
  $("#leave").addEventListener("click", () => { close(); left(); });
  return { open, close, ask, look, showing: () => !shown.hidden };
}
