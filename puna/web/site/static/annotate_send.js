// Judgements on their way: kept until the server has them, also over a reload, and sent again with
// the same key, so that each counts once.

import { $, api, ApiError, el, forget, recall, remember, toast, uuid } from "./puna.js";

const AGAIN = 8000; // milliseconds until what did not get through is tried again

export class Outbox {
  /** taken(reply, entry): the server has it; dropped(entry): the person gave it up. */
  constructor(campaign, { taken, dropped }) {
    const viewer = document.documentElement.dataset.viewer ?? "0";
    this.name = `draft.${viewer}.outbox.${campaign}`; // forgotten when the viewer logs out
    this.taken = taken;
    this.dropped = dropped;
    this.entries = recall(this.name, []);
    this.line = Promise.resolve();
    addEventListener("online", () => this.again());
    setInterval(() => this.again(), AGAIN);
    for (const entry of this.entries) this.queue(entry);
  }

  /** The tasks whose judgements are not with the server yet. */
  tasks() {
    return this.entries.map((entry) => entry.task);
  }

  /** Send a judgement or a skip. -> the reply, or null if it did not get through */
  send(task, path, body, comment = "") {
    const entry = { task, path, body, comment, key: uuid() };
    this.entries.push(entry);
    this.save();
    return this.queue(entry);
  }

  queue(entry) {
    entry.state = "sending";
    const sent = this.line.then(() => this.deliver(entry));
    this.line = sent.catch(() => {});
    return sent;
  }

  async deliver(entry) {
    try {
      const reply = await this.post(entry);
      this.remove(entry);
      this.taken(reply, entry);
      return reply;
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      entry.state = error.status === 0 || error.status >= 500 || error.status === 429 ? "away" : "refused";
      entry.why = error.message;
      this.save();
      this.show();
      return null;
    }
  }

  /** POST; a lease that ran out is taken again, if nobody else has the item by now. */
  async post(entry) {
    try {
      return await api("POST", entry.path, entry.body, { key: entry.key });
    } catch (error) {
      if (error.status !== 409) throw error;
      try {
        await api("POST", `/api/annotate/tasks/${entry.task}/again`, {});
      } catch {
        throw error;
      }
      return api("POST", entry.path, entry.body, { key: entry.key });
    }
  }

  again() {
    for (const entry of this.entries) if (entry.state === "away") this.queue(entry);
  }

  remove(entry) {
    this.entries = this.entries.filter((other) => other !== entry);
    this.save();
    this.show();
  }

  save() {
    if (this.entries.length) remember(this.name, this.entries);
    else forget(this.name);
  }

  /** Say what is not stored, and why. */
  show() {
    const stuck = this.entries.filter((entry) => entry.state === "refused" || entry.state === "away");
    $("#refused").replaceChildren(...stuck.map((entry) => el("div", { class: "panel warn spread" },
      el("span", {}, el("strong", { text: "Not stored yet: " }), entry.why,
        entry.comment ? el("em", { text: ` Your comment: “${entry.comment}”` }) : null),
      el("div", { class: "row" },
        el("button", { type: "button", text: "Send again", on: { click: () => this.queue(entry) } }),
        el("button", { type: "button", class: "quiet", text: "Give it up",
          on: { click: () => this.give(entry) } })))));
  }

  give(entry) {
    this.remove(entry);
    this.dropped(entry);
    toast("Given up. The task may come again.");
  }
}
