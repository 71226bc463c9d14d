// Reviewing: one judgement after the other, a key for each verdict.

import { BINS, LETTERS, RATINGS, STRENGTHS, pair, talk, words } from "./pairs.js";
import { $, api, duration, el, keys, number, toast } from "./puna.js";

const WHYS = {
  gold: "This item has a known answer, and the judgement missed it.",
  disagreement: "People disagree about this item.",
  share: "Drawn for review.",
};
const STRENGTH_KEYS = Object.keys(STRENGTHS); // 1 to 4
const BIN_KEYS = Object.keys(BINS); // 5 to 8
const SCALE = [3, 2, 1, 0, -1, -2, -3]; // 1 to 7
const root = $("#review");
const note = $("#note");
let one = null; // the judgement in view
let changes = {};
let busy = false;

const campaign = () => Number($("#campaign").value) || null;
const now = (name) => (name in changes ? changes[name] : one.judgement[name]);
const evaluated = () => one.campaign.kind === "evaluation";

function set(name, value) {
  if (value === one.judgement[name]) delete changes[name];
  else changes[name] = value;
  show();
}

function choices(name, legend, options, first) {
  return el("fieldset", { class: "choices" }, el("legend", { class: "small" }, legend,
    name in changes ? el("span", { class: "changed", text: " changed" }) : null),
  options.map(([value, text], place) => el("label", {},
    el("input", { type: "radio", name, checked: now(name) === value,
      on: { change: () => set(name, value) } }), text,
    el("kbd", { "aria-hidden": "true", text: typeof first === "number" ? first + place : first }))));
}

function scale(value) {
  return value === 0 ? RATINGS[0] : `${LETTERS[Number(value < 0)]} ${RATINGS[Math.abs(value)]}`;
}

function editor() {
  if (evaluated()) {
    return [choices("rating", "Judgement", SCALE.map((value) => [value, scale(value)]), 1)];
  }
  const found = [
    choices("chosen", "The better answer", [[0, "A"], [1, "B"]], "X"),
    choices("strength", "By how much", Object.entries(STRENGTHS), 1),
  ];
  if (one.judgement.safety !== null || one.campaign.aim === "safety") {
    found.push(choices("safety", "Safety", Object.entries(BINS), 5));
  }
  return found;
}

function judged() {
  const { judgement, others } = one;
  return el("section", { class: "card judged", "aria-label": "The judgement" },
    el("div", { class: "spread" },
      el("h2", {}, `${one.annotator}: `, el("span", { text: words(judgement) })),
      el("span", { class: "muted small", text: `took ${duration(judgement.seconds)}` })),
    judgement.comment ? el("blockquote", { class: "panel" }, el("bdi", { text: judgement.comment })) : null,
    others.length ? el("p", { class: "small muted", text: others.map((other) =>
      `${other.annotator}: ${words(other)}`).join(". ") }) : null,
    editor());
}

function show() {
  const focused = document.activeElement?.name;
  const rating = now("rating");
  const chosen = evaluated() ? (rating ? Number(rating < 0) : undefined) : now("chosen");
  root.replaceChildren(
    el("div", { class: "panel why spread", data: { why: one.why } },
      el("span", { text: WHYS[one.why] }),
      el("a", { href: `/campaigns/${one.campaign.id}/items/${one.item}`, class: "small",
        text: `${one.campaign.name}, item ${one.item}` })),
    talk(one.messages), pair(one.answers, chosen, { expected: one.expected.chosen, blind: true }),
    judged());
  if (focused) $(`[name="${focused}"]:checked`)?.focus();
  const changed = Object.keys(changes).length > 0;
  $("#approve").firstElementChild.textContent = changed ? "Save the correction" : "Approve";
  $("#approve").dataset.changed = changed ? "1" : "";
}

function nothing(done) {
  const words_ = done ? `You have reviewed ${number(done)}. ` : "";
  root.replaceChildren(el("div", { class: "empty" },
    el("p", { text: `${words_}Nothing waits for review.` })));
}

function counted({ waiting, done }) {
  const parts = [
    waiting.gold && `${number(waiting.gold)} missed gold`,
    waiting.disagreement && `${number(waiting.disagreement)} in disagreement`,
    waiting.share && `${number(waiting.share)} drawn`,
  ].filter(Boolean);
  $("#waiting").textContent = [parts.length ? `Waiting: ${parts.join(", ")}` : "",
    done ? `${number(done)} reviewed by you` : ""].filter(Boolean).join(". ");
}

async function next() {
  try {
    const told = await api("POST", "/api/review/next", { campaign: campaign() });
    one = told.next;
    changes = {};
    note.value = "";
    note.blur(); // keys speak of the next judgement
    counted(told);
    if (one) show();
    else nothing(told.done);
    $("#verdicts").hidden = !one && !told.done;
    for (const name of ["approve", "reject"]) $(`#${name}`).disabled = !one;
    root.setAttribute("aria-busy", "false");
    scrollTo({ top: 0 });
  } catch (error) {
    toast(error.message, "bad");
  }
}

async function send(verdict) {
  if (busy || !one) return;
  busy = true;
  try {
    const body = { verdict, note: note.value.trim() };
    if (verdict === "edited") body.changes = changes;
    await api("POST", `/api/review/${one.id}`, body);
    await next();
  } catch (error) {
    toast(error.message, "bad");
    if (error.status === 409) await next();
  }
  busy = false;
}

const approve = () => send(Object.keys(changes).length ? "edited" : "approved");

function reject() {
  if (!one) return;
  if (note.value.trim()) {
    send("rejected");
    return;
  }
  note.focus();
  toast("Say why, then reject with Ctrl and Enter.");
}

async function undo() {
  if (busy) return;
  busy = true;
  try {
    await api("POST", "/api/review/undo", {});
    $("#campaign").value = "";
    await next();
    toast("The last verdict is taken back.", "good");
  } catch (error) {
    toast(error.message, "bad");
  }
  busy = false;
}

function press(place) {
  if (evaluated()) {
    if (place <= SCALE.length) set("rating", SCALE[place - 1]);
  } else if (place <= 4) set("strength", STRENGTH_KEYS[place - 1]);
  else if (place <= 8 && $("[name=safety]")) set("safety", BIN_KEYS[place - 5]);
}

keys({
  a: [approve, "Approve, or save the correction"], r: [reject, "Reject; the note says why"],
  u: [undo, "Undo the last verdict"],
  x: [() => one && !evaluated() && set("chosen", 1 - now("chosen")), "The other answer is better"],
  n: [() => note.focus(), "Write a note"],
  Escape: [() => {
    if (document.activeElement === note) note.blur();
    else if (one) {
      changes = {};
      show();
    }
  }, "Drop the correction"],
  "mod+Enter": [() => note.value.trim() && send("rejected"), "Reject with the note"],
}, { title: "Review" });
keys(Object.fromEntries([1, 2, 3, 4, 5, 6, 7, 8].map((place) =>
  [String(place), [() => press(place), "Correct strength, safety or rating"]])),
{ when: () => Boolean(one), title: "Review" });

$("#approve").addEventListener("click", approve);
$("#reject").addEventListener("click", reject);
$("#undo").addEventListener("click", undo);
$("#campaign").addEventListener("change", next);

async function begin() {
  try {
    const { campaigns } = await api("GET", "/api/campaigns");
    const reviewed = campaigns.filter(({ settings }) => settings.review_share);
    $("#campaign").append(...reviewed.map(({ id, name }) => el("option", { value: id, text: name })));
    const asked = new URLSearchParams(location.search).get("campaign");
    if (reviewed.some(({ id }) => String(id) === asked)) $("#campaign").value = asked;
  } catch (error) {
    toast(error.message, "bad");
  }
  await next();
}

begin();
