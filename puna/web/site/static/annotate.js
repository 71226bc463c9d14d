// The annotation page: one task in view, one fetched ahead, judgements on their way behind it.

import { $, api, ApiError, draft, duration, keys, recall, remember, toast, uuid } from "./puna.js";
import { Outbox } from "./annotate_send.js";
import { BINS, choices, draw, drawBins, drawScale, mark, spoken } from "./annotate_view.js";
import { composer } from "./annotate_write.js";

const place = $("#place").dataset;
const campaign = Number(place.campaign);
const kind = place.kind;
const IDLE = 15 * 60_000; // milliseconds without a key or a touch, until leases are let go
const AHEAD = 2; // tasks in the page

let queue = []; // the first is in view
let choice = null;
let bin = null;
let seconds = 0; // in view
let looked = performance.now();
let active = Date.now();
let last = null; // what undo takes back: {what, task}
let comment = null; // the draft of the comment
let fetching = null;
let figures = { done: 0, total: 0, today: 0, in_a_row: 0, days: 0 };

const outbox = new Outbox(campaign, { taken, dropped: () => top() });
const writing = composer(campaign, { ready: arrived, left: show });

function ids() {
  return [...new Set([...queue.map((task) => task.id), ...outbox.tasks()])].slice(-8);
}

/** Keep one task ahead. */
function top() {
  fetching ??= fetchOne().finally(() => { fetching = null; });
  return fetching;
}

async function fetchOne() {
  while (queue.length < AHEAD) {
    let told;
    try {
      told = await api("POST", `/api/annotate/${campaign}/next`, { beside: ids() });
    } catch (error) {
      if (!queue.length) nothing({ code: "away", message: error.message });
      return;
    }
    if (!told.task) {
      if (!queue.length) nothing(told.nothing);
      return;
    }
    add(told.task);
  }
}

function add(task, first = false) {
  if (!task || queue.some((other) => other.id === task.id) || outbox.tasks().includes(task.id)) return;
  if (first) queue.unshift(task);
  else queue.push(task);
  if (queue[0] === task) show();
}

/** Show the first task of the queue. */
function show() {
  if (writing.showing()) return;
  const task = queue[0];
  if (!task) {
    $("#task").hidden = true;
    top();
    return;
  }
  $("#nothing").hidden = true;
  draw(task);
  choice = task.before ? choices(kind).find((one) => kind === "evaluation"
    ? one.rating === task.before.rating
    : one.side === task.before.chosen && one.strength === task.before.strength) ?? null : null;
  bin = task.before?.safety ?? null;
  const field = $("#comment");
  comment?.save();
  field.value = task.before?.comment ?? "";
  comment = draft(field, `annotate.${campaign}.comment.${task.id}`);
  $("#comment-field").hidden = !field.value;
  seconds = 0;
  looked = performance.now();
  mark(choice, bin, kind);
  $("#test").hidden = !task.test;
  $("#heading").textContent = task.test ? "Task of the test" : "Task";
  const at = document.activeElement;
  if (at === document.body || $("#work").contains(at)) $("#heading").focus({ preventScroll: true });
  scrollTo({ top: 0 });
}

function nothing({ code, message }) {
  $("#task").hidden = true;
  if (code === "held") return;
  $("#why").textContent = message;
  $("#nothing").hidden = false;
  $("#spoken").textContent = message;
  if (place.own === "1" && ["empty", "waiting", "preparing"].includes(code) && !writing.showing()) {
    writing.open(null, [], null);
  }
  if (["waiting", "preparing", "away"].includes(code)) setTimeout(() => !queue.length && top(), 5000);
}

function pick(chosen) {
  choice = chosen;
  $("#spoken").textContent = spoken(chosen);
  mark(choice, bin, kind);
  if (kind === "evaluation" && $("#at-once").checked) send();
}

function pickBin(chosen) {
  if (!choice || kind === "evaluation") return;
  bin = chosen;
  mark(choice, bin, kind);
  $("#spoken").textContent = BINS[bin][1];
  if ($("#at-once").checked) send();
}

/** Time in view: only while somebody can see the page. */
function tick() {
  const moment = performance.now();
  if (!document.hidden && !$("#task").hidden) seconds += (moment - looked) / 1000;
  looked = moment;
  const whole = Math.floor(seconds);
  $("#timer").textContent = `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

function send() {
  const task = queue[0];
  if (!task || $("#task").hidden || $("#send").disabled) return;
  tick();
  const said = $("#comment").value.trim();
  const body = {
    digest: task.digest, chosen: choice.side ?? null, strength: choice.strength ?? null,
    safety: kind === "evaluation" ? null : bin, rating: choice.rating ?? null, comment: said,
    seconds: Math.min(86400, Math.round(seconds * 10) / 10), beside: ids(),
  };
  queue.shift();
  comment?.clear();
  comment = null;
  last = { what: "judgement", task: task.id };
  if (bin === "rejected_safe") toast("Recorded, and left out of training.");
  const sent = outbox.send(task.id, `/api/annotate/tasks/${task.id}/judgement`, body, said);
  const goes = kind === "preference" && place.live === "1" && !task.test && task.turns < Number(place.turns);
  if (!goes) return show();
  $("#task").hidden = true;
  const reply = { role: "assistant", html: task.answers[choice.side].html };
  writing.open(task.id, [...task.messages, reply], sent);
}

/** The server has a judgement or a skip. */
function taken(reply, entry) {
  if (reply.annotation) {
    figures = { ...figures, done: figures.done + 1, today: figures.today + 1,
      in_a_row: figures.in_a_row + 1, days: figures.days || 1 };
    drawFigures();
  }
  if (reply.passed === true) toast("You passed the test. The work begins.", "good");
  if (reply.passed !== null && reply.passed !== undefined) stand();
  add(reply.task);
  if (!queue.length && reply.nothing && !outbox.tasks().length) nothing(reply.nothing);
  if (entry.path.endsWith("/skip")) stand();
  top();
}

function skip() {
  const task = queue[0];
  if (!task || $("#task").hidden) return;
  if (task.test) return toast("Tasks of the test cannot be skipped.");
  const reason = $("#comment").value.trim().slice(0, 500);
  if (!reason && $("#comment-field").hidden) {
    $("#comment-field").hidden = false;
    $("#comment").focus();
    return toast("Say why in the comment, then skip again (Esc, S).");
  }
  queue.shift();
  comment?.clear();
  comment = null;
  last = { what: "skip", task: task.id };
  outbox.send(task.id, `/api/annotate/tasks/${task.id}/skip`, { reason, beside: ids() }, reason);
  show();
}

async function undo() {
  await outbox.line;
  try {
    const told = last?.what === "skip"
      ? await api("POST", `/api/annotate/tasks/${last.task}/again`, {})
      : await api("POST", `/api/annotate/${campaign}/undo`, {}, { key: uuid() });
    last = null;
    if (!told.task) return toast(told.nothing.message, "bad");
    writing.close();
    add(told.task, true);
    toast("Taken back. Judge it anew.");
    stand();
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    toast(error.message, "bad");
  }
}

/** The answers to the person's own message are there: they come next. */
async function arrived() {
  try {
    const { task } = await api("POST", `/api/annotate/${campaign}/next`, { beside: ids() });
    if (!task) return;
    const busy = queue.length && !$("#task").hidden && (choice || seconds > 3);
    if (busy) {
      queue.splice(1, 0, task);
      toast("The answers to your message are there; they come next.", "good");
    } else if (writing.showing() && $("#text").value) {
      queue.unshift(task);
      toast("The answers to your message are there; they come next.", "good");
    } else {
      writing.close();
      add(task, true);
    }
  } catch {
    top();
  }
}

async function stand() {
  try {
    figures = await api("GET", `/api/annotate/${campaign}?west=${new Date().getTimezoneOffset()}`);
    drawFigures();
  } catch {
    // The figures are not needed to go on.
  }
}

function drawFigures() {
  const total = Math.max(figures.total, figures.done);
  $("#done").textContent = figures.done;
  $("#total").textContent = total;
  $("#today").textContent = figures.today;
  $("#row").textContent = figures.in_a_row;
  $("#days").textContent = figures.days;
  Object.assign($("#progress"), { max: Math.max(total, 1), value: figures.done });
  const { test } = figures;
  if (test && test.passed === null) {
    $("#test").textContent = `Test: ${test.answered} of ${test.tasks} answered`;
  }
  if (figures.seconds) $("#timer").title = `Your usual time: ${duration(figures.seconds)}`;
}

/** Hold what is in the page while somebody is at work. */
async function beat() {
  if (document.hidden || Date.now() - active > IDLE || !queue.length) return;
  try {
    const tasks = queue.map((task) => task.id);
    const { gone } = await api("POST", `/api/annotate/${campaign}/renew`, { tasks });
    for (const [task, why] of Object.entries(gone)) lost(Number(task), why);
  } catch {
    // The next one may get through.
  }
}

function lost(id, why) {
  const first = queue[0]?.id === id;
  queue = queue.filter((task) => task.id !== id);
  if (!first) return top();
  toast(why, "bad");
  show();
  return top();
}

function remark() {
  $("#comment-field").hidden = false;
  $("#comment").focus();
}

function write() {
  $("#task").hidden = true;
  $("#nothing").hidden = true;
  writing.open(null, [], null);
}

function escape() {
  if (writing.showing()) {
    writing.close();
    show();
  } else document.activeElement?.blur();
}

drawScale(kind, pick);
drawBins(pickBin);
const atTask = () => !$("#task").hidden;
keys(Object.fromEntries(choices(kind).map((one) => [one.key, [() => pick(one), spoken(one)]])),
  { when: atTask, title: "Which answer is better" });
if (kind !== "evaluation") {
  keys(Object.fromEntries(Object.entries(BINS).map(([name, [key, words]]) =>
    [key.toLowerCase(), [() => pickBin(name), words]])), { when: atTask, title: "Which are safe" });
}
keys({ Enter: [send, "Send"], s: [skip, "Skip, with a reason"], m: [remark, "Comment"] },
  { when: atTask, title: "This task" });
const toggle = () => { $("#guide").open = !$("#guide").open; };
keys({ u: [undo, "Undo the last one"], g: [toggle, "Guidelines"], Escape: escape }, { title: "This task" });
if (place.own === "1") keys({ w: [write, "Write a prompt"] }, { title: "This task" });
keys({ "mod+Enter": () => (writing.showing() ? writing.ask() : send()) });

$("#send").addEventListener("click", send);
$("#skip").addEventListener("click", skip);
$("#undo").addEventListener("click", undo);
$("#undo-last").addEventListener("click", undo);
$("#remark").addEventListener("click", remark);
$("#write")?.addEventListener("click", write);
$("#look").addEventListener("click", () => top());
$("#at-once").checked = recall("annotate.at-once", true);
$("#at-once").addEventListener("change", () => remember("annotate.at-once", $("#at-once").checked));
$("#guide").open = recall("annotate.guide", innerWidth > 1000);
$("#guide").addEventListener("toggle", () => remember("annotate.guide", $("#guide").open));
for (const event of ["keydown", "pointerdown", "wheel"]) {
  addEventListener(event, () => { active = Date.now(); }, { passive: true });
}
addEventListener("visibilitychange", () => { tick(); beat(); });
addEventListener("pageshow", (event) => {
  if (!event.persisted) return;
  queue = [];
  show();
});
setInterval(tick, 1000);
setInterval(beat, Math.min(300, Number(place.lease) / 3) * 1000);
stand();
top();
writing.look();
