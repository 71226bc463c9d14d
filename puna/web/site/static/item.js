// One item: the conversation, the answers, who judged what, and what an admin may do with it.

import { pair, talk, words } from "./pairs.js";
import { $, ago, api, confirm, dialog, duration, el, toast } from "./puna.js";

const root = $("#item");
const { campaign, item: number, admin } = root.dataset;
const path = `/api/campaigns/${campaign}/items/${number}`;

function judgement(one) {
  const state = one.undone ? "taken back" : one.review;
  const tone = { approved: "good", rejected: "bad", edited: "info" }[state] ?? "";
  return el("tr", {},
    el("th", { scope: "row", text: one.annotator }),
    el("td", {}, words(one), one.comment ? el("p", { class: "muted small", text: one.comment }) : null,
      one.reviews.map((review) => el("p", { class: "small",
        text: `${review.reviewer}: ${review.verdict}${review.note ? `, ${review.note}` : ""}` }))),
    el("td", { text: duration(one.seconds) }), el("td", { class: "when", text: ago(one.created) }),
    el("td", {}, el("span", { class: `badge ${tone}`, text: state })));
}

function show(item) {
  const judged = item.judgements;
  const expected = item.expected.chosen;
  root.replaceChildren(...[
    talk(item.messages),
    item.answers.length ? pair(item.answers, undefined, { expected }) : null,
    item.failure ? el("p", { class: "panel bad", text: item.failure }) : null,
    el("h2", { text: "Judgements" }),
    judged.length ? el("div", { class: "scroll", tabindex: "0" }, el("table", { class: "data" },
      el("thead", {}, el("tr", {}, ["Person", "Judgement", "Took", "When", "State"].map((text) =>
        el("th", { text })))),
      el("tbody", {}, judged.map(judgement))))
      : el("p", { class: "muted", text: "Nobody has judged this item." }),
  ].filter(Boolean));
  root.setAttribute("aria-busy", "false");
  const purpose = { normal: "work", gold: "gold", qualification: "test" }[item.purpose];
  $("#badges").replaceChildren(...[item.state, purpose, `batch ${item.batch}`, item.category]
    .filter(Boolean).map((text) => el("span", { class: "badge", text })));
  if (admin) actions(item);
}

function button(text, kind, deed) {
  return el("button", { type: "button", class: kind, text, on: { click: async () => {
    try {
      await deed();
      await load();
    } catch (error) {
      toast(error.message, "bad");
    }
  } } });
}

function actions(item) {
  const found = [];
  if (item.state === "failed") {
    found.push(button("Prepare again", "primary", () =>
      api("POST", `/api/campaigns/${campaign}/retry`, { item: Number(number) })));
  }
  if (item.answers.length && item.purpose === "normal") {
    found.push(button("Use as gold or test", "", () => copy(item)));
  }
  if (item.state !== "closed") {
    found.push(button("Withdraw", "danger", async () => {
      const meant = await confirm("Give this item to nobody any more? What was judged stays.",
        { yes: "Withdraw", danger: true });
      if (meant) await api("DELETE", path);
    }));
  }
  $("#actions").replaceChildren(...found);
}

async function copy(item) {
  const counted = item.judgements.filter((one) => !one.undone && one.review !== "rejected");
  const second = counted.filter((one) => one.chosen === 1 || one.rating < 0).length;
  const guess = second * 2 > counted.length ? 1 : 0;
  const choices = (name, legend, options, chosen) => el("fieldset", { class: "choices" },
    el("legend", { text: legend }), options.map(([value, text]) => el("label", {},
      el("input", { type: "radio", name, value, checked: value === chosen }), text)));
  const asked = el("dialog", { "aria-labelledby": "copy-title" },
    el("h2", { id: "copy-title", text: "Use this item to test people" }),
    choices("purpose", "As", [["gold", "Gold, mixed in"], ["qualification", "Qualification test"]], "gold"),
    choices("right", "The better answer", [["0", "A"], ["1", "B"]], String(guess)),
    el("div", { class: "row end" },
      el("button", { type: "button", text: "Cancel", on: { click: () => asked.close() } }),
      el("button", { type: "button", class: "primary", text: "Add it",
        on: { click: () => asked.close("yes") } })));
  const answer = dialog(asked);
  const value = (name) => $(`[name=${name}]:checked`, asked).value;
  if ((await answer) !== "yes") return;
  const body = { purpose: value("purpose"), chosen: Number(value("right")) };
  const told = await api("POST", `${path}/copy`, body);
  toast(`Item ${told.item} was added.`, "good");
}

async function load() {
  try {
    show((await api("GET", path)).item);
  } catch (error) {
    toast(error.message, "bad");
  }
}

load();
