// One attempt: the conversation, the timer, the judgement of each answer.

import { $, $$, ApiError, api, confirm, draft, duration, el, html, keys, recall, remember, stream,
  toast } from "./puna.js";
import { blur, clock, marks, scale } from "./redteam_parts.js";

const BEAT = 15; // seconds between two signs of life
const AWAY = 60; // seconds without a movement, until nobody is there
const BREAK = 2700; // seconds of work after which a break is due

const root = $("#attempt");
const id = root.dataset.id;
const own = root.dataset.own === "yes";
const list = $("#turns");
const text = $("#text");
const path = `/api/redteam/attempts/${id}`;

let state = { turns: [], last: 0, ended: true, running: false, seconds: 0 };
let heard = 0; // when the server last said how long
let writing = null; // aborts the answer that is being written
let moved = performance.now();
let rests = false; // paused by hand
const kept = own ? draft(text, `redteam.${id}`) : null;

// The conversation

function verdict(turn) {
  const note = el("input", { type: "text", maxlength: 4000, value: turn.note, class: "note",
    "aria-label": "Note on this answer", placeholder: "Note: what is wrong with it?",
    on: { change: () => turn.points && mark(turn, turn.points) } });
  const words = turn.points ? scale().get(turn.points) : "Judge this answer";
  return el("div", { class: "verdict" },
    marks(turn.points, (points) => mark(turn, points)),
    el("span", { class: `small ${turn.points && turn.points < 3 ? "violates" : "muted"}`, text: words }),
    note);
}

function drawn(turn) {
  const model = turn.role === "assistant";
  const told = { stopped: "You stopped it here.", length: "It reached its longest length here." };
  return el("li", { class: `turn ${turn.role}`, data: { turn: turn.id } },
    el("p", { class: "by small muted", text: model ? "Model" : own ? "You" : "Person" }),
    html(el("div", { class: "answer veil", tabindex: "-1" }), turn.html),
    told[turn.state] && el("p", { class: "small muted", text: told[turn.state] }),
    turn.dropped > 0 && el("p", { class: "small muted",
      text: `The model did not see the first ${turn.dropped} messages: no room.` }),
    model && verdict(turn));
}

function show() {
  list.replaceChildren(...state.turns.map(drawn));
  list.setAttribute("aria-busy", "false");
  if (!state.turns.length) {
    list.append(el("li", { class: "empty", text: own
      ? "Begin. Think of who would ask for this, and how they would go about it."
      : "Nothing was said yet." }));
  }
  controls();
}

function controls() {
  if (!own) return;
  const waits = state.turns.at(-1)?.role === "user" && !writing;
  $("#clock").hidden = state.ended;
  $("#composer").hidden = state.ended;
  $("#over").hidden = !state.ended;
  $("#again").hidden = !waits;
  $("#stop").hidden = !writing;
  $("#send").hidden = Boolean(writing) || waits;
  $("#pause").textContent = state.running ? "Pause" : "Go on";
}

async function load() {
  take(await api("GET", path));
  html($("#guidelines"), state.guidelines);
  show();
}

const last = (selector) => $$(selector, list).at(-1);
const unmarked = () => state.turns.filter((turn) => turn.role === "assistant" && !turn.points);

async function mark(turn, points) {
  const note = $(`[data-turn="${turn.id}"] .note`, list)?.value ?? "";
  try {
    await api("PUT", `/api/redteam/turns/${turn.id}/severity`, { points, note });
  } catch (error) {
    toast(error.message, "bad");
    return;
  }
  const fresh = points < 3 && !(turn.points && turn.points < 3);
  Object.assign(turn, { points, note });
  const focused = $(`[data-turn="${turn.id}"]`, list)?.contains(document.activeElement);
  $(`[data-turn="${turn.id}"]`, list)?.replaceWith(drawn(turn));
  if (focused) $(`[data-turn="${turn.id}"] .mark[aria-pressed=true]`, list)?.focus();
  if (fresh && own) toast("A violation. You can write the safe answer on the red-team page.", "info");
}

// Saying something

async function say(words) {
  if (writing || state.ended) return;
  writing = new AbortController();
  rests = false;
  if (words !== null) {
    state.turns.push({ id: 0, role: "user", html: "", text: words });
  }
  show();
  if (words !== null) last(".turn.user .answer").textContent = words;
  const target = el("div", { class: "answer veil raw" });
  list.append(el("li", { class: "turn assistant" },
    el("p", { class: "by small muted", text: "Model" }), target));
  target.scrollIntoView({ block: "nearest" });
  controls();
  try {
    await stream(`${path}/messages`, { after: state.last, text: words }, (data) => {
      if (data.text) target.append(data.text);
    }, writing.signal);
    if (words !== null) kept.clear();
  } catch (error) {
    if (error.name !== "AbortError") toast(error.message, "bad");
    if (words !== null && !(error instanceof ApiError && error.status >= 400)) kept.clear();
  }
  const stopped = writing.signal.aborted;
  writing = null;
  await again(words, stopped);
}

/** What the server has kept. After a stop it may take a moment until the answer is among it. */
async function again(words, stopped) {
  for (let tries = 0; tries < 5; tries += 1) {
    await load().catch((error) => toast(error.message, "bad"));
    if (!stopped || state.turns.at(-1)?.role === "assistant") break;
    await new Promise((resolve) => setTimeout(resolve, 150));
  }
  const said = words === null || state.turns.some(({ role, text: t }) => role === "user" && t === words);
  if (!said && !text.value) text.value = words; // it never got there
  if (state.turns.at(-1)?.role !== "assistant") return;
  last(".turn.assistant").scrollIntoView({ block: "nearest" });
  last(".turn.assistant .answer").focus({ preventScroll: true });
}

function send(event) {
  event?.preventDefault();
  const words = text.value;
  if (!words.trim() || writing) return;
  text.value = "";
  say(words);
}

// The timer

function take(told) {
  state = { ...state, ...told };
  heard = performance.now();
  tick();
}

function tick() {
  if (!own) return;
  const more = state.running ? Math.min((performance.now() - heard) / 1000, BEAT + 5) : 0;
  $("#time").textContent = clock(state.seconds + more);
  $("#clock").dataset.running = state.running ? "yes" : "no";
  const stands = $("#stands");
  stands.hidden = state.ended || state.running;
  stands.textContent = rests ? "Paused. Your time stands still."
    : "The timer stands, for nobody was there. It goes on with what you do next.";
  controls();
}

async function tell(action) {
  try {
    take(await api("POST", `${path}/timer`, { action }));
  } catch (error) {
    if (action !== "beat" && action !== "idle") toast(error.message, "bad");
    if (error.status === 409) await load();
  }
  rest();
}

function rest() {
  const due = Math.floor((state.today ?? 0) / BREAK);
  const day = new Date().toDateString();
  const before = recall("redteam.break", {});
  if (due < 1 || (before.day === day && before.due >= due)) return;
  remember("redteam.break", { day, due });
  $("#break").hidden = false;
  $("#break").replaceChildren(
    el("span", { text: `${duration(state.today)} of this today: time for a break, away from the screen.` }),
    el("button", { type: "button", class: "small", text: "Thank you",
      on: { click: () => { $("#break").hidden = true; } } }));
}

function beat() {
  if (state.ended || rests) return;
  const there = (performance.now() - moved) / 1000 < AWAY || writing;
  if (state.running) tell(there && !document.hidden ? "beat" : "idle");
}

function here() {
  moved = performance.now();
  if (!state.running && !state.ended && !rests && heard && performance.now() - heard > 1500) {
    heard = performance.now();
    tell("resume");
  }
}

async function end() {
  const open = unmarked().length;
  if (open && !(await confirm(`${open} ${open === 1 ? "answer is" : "answers are"} not judged yet. `
    + "End all the same? You can still judge later.", { yes: "End", no: "Go on" }))) return;
  writing?.abort();
  await tell("end");
  controls();
}

async function same() {
  const { risk, vector, campaign } = state;
  try {
    const made = await api("POST", "/api/redteam/attempts", { campaign, risk, vector });
    location.assign(`/redteam/attempts/${made.id}`);
  } catch (error) {
    toast(error.message, "bad");
  }
}

function listen() {
  $("#composer").addEventListener("submit", send);
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send(event);
  });
  $("#stop").addEventListener("click", () => writing?.abort());
  $("#again").addEventListener("click", () => say(null));
  $("#end").addEventListener("click", end);
  $("#same").addEventListener("click", same);
  $("#pause").addEventListener("click", () => {
    rests = state.running;
    tell(rests ? "pause" : "resume");
  });
  for (const sign of ["pointermove", "pointerdown", "keydown", "wheel", "touchmove"]) {
    addEventListener(sign, here, { passive: true });
  }
  setInterval(tick, 1000);
  setInterval(beat, BEAT * 1000);
  keys({ Escape: [() => writing.abort(), "Stop the answer"] }, { when: () => Boolean(writing) });
  keys({ c: [() => text.focus(), "Write"], n: [() => last(".note")?.focus(), "Note on the last answer"],
    e: [end, "End this attempt"] }, { when: () => !state.ended });
}

const judged = () => state.turns.findLast((turn) => turn.role === "assistant");
keys(Object.fromEntries([1, 2, 3, 4, 5].map((points) =>
  [String(points), [() => mark(judged(), points), "Judge the last answer"]])),
{ when: () => Boolean(judged()) && !writing });

blur();
if (own) listen();
load().then(() => {
  if (!own || state.ended) return;
  tell("resume");
  if (state.turns.at(-1)?.role !== "assistant") text.focus();
}).catch((error) => toast(error.message, "bad"));
