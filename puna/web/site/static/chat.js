// The chat: sends what was typed, shows the answers as they come, stops them.

import { $, $$, ApiError, api, el, forget, keys, recall, remember, stream, toast }
  from "./puna.js";
import { history } from "./chat_history.js";
import { settings } from "./chat_settings.js";
import { answerTurn, liveAnswer, userTurn } from "./chat_turns.js";
import { askThumb, verdict } from "./chat_verdicts.js";

const page = $("#chat");
const given = (name) => JSON.parse(page.dataset[name]);
const turns = $("#turns");
const scroll = $("#scroll");
const text = $("#text");
const system = $("#system");
const IDEAS = ["Explain why the sky is blue, in three sentences.",
  "Write a short thank-you note to a neighbour.",
  "What should I think about before I adopt a dog?",
  "Make a plan for learning to cook in four weeks."];

let number = Number(page.dataset.number); // 0: nothing said yet
let record = null;
let live = new Map(); // turn number -> what shows it while it is written
let running = null; // of the stream that is heard
let choose = null; // settings, once the server has said what there is

// What is typed is kept under the conversation it is for, until it is sent.
const kept = () => `draft.${document.documentElement.dataset.viewer || "0"}.chat.${number}`;
const keep = () => (text.value ? remember(kept(), text.value) : forget(kept()));
const typed = () => {
  text.value = recall(kept(), "");
};
text.addEventListener("input", keep);

// Scrolling: follow the text only while the reader is at its end.
let follow = true;
const atEnd = () => scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 48;
const keepUp = () => {
  if (follow) scroll.scrollTop = scroll.scrollHeight;
  $("#latest").hidden = follow || atEnd();
};
scroll.addEventListener("scroll", () => {
  follow = atEnd();
  $("#latest").hidden = follow;
}, { passive: true });
scroll.addEventListener("wheel", (event) => {
  if (event.deltaY < 0) follow = false;
}, { passive: true });
$("#latest").addEventListener("click", () => {
  follow = true;
  keepUp();
});

const notice = (words) => {
  $("#notice").hidden = !words;
  if ($("#notice").textContent !== words) $("#notice").textContent = words;
};
const wrong = (words) => {
  $("#told").textContent = words;
};
const say = (words) => {
  $("#said").textContent = words;
};

function busy(on) {
  $("#send").hidden = on;
  $("#stop").hidden = !on;
  text.setAttribute("aria-busy", String(on));
}

const deeds = {
  branch: async (id) => show(await api("PUT", `/api/chat/conversations/${number}/leaf`,
    { turn_id: id })),
  edit: (turn, words) => ask({ parent_id: turn.parent, text: words }),
  retry: (turn) => ask({ parent_id: turn.parent }),
  goOn: (turn) => hear(`/api/chat/turns/${turn.id}/continue`, { settings: choose.settings() }),
  thumb: async (turn, up) => {
    turn.thumb = (await askThumb(turn, up, given(up ? "good" : "bad"))) ?? null;
    draw();
  },
};
for (const [name, deed] of Object.entries(deeds)) {
  deeds[name] = async (...args) => {
    if (live.size) return toast("An answer is being written; stop it first.");
    try {
      return await deed(...args);
    } catch (error) {
      return toast(error.message, "bad");
    }
  };
}

/** Show a conversation as the server has it. */
function show(found) {
  record = found;
  number = found.id;
  live = new Map();
  $("#title").textContent = found.title;
  document.title = `${found.title} · Puna`;
  system.value = found.system;
  $("#menu").hidden = false;
  $("#as-json").href = `/api/chat/conversations/${number}/export`;
  $("#as-markdown").href = `/api/chat/conversations/${number}/markdown`;
  draw();
  const writing = found.turns.some((turn) => turn.state === "writing");
  if (writing) setTimeout(() => !running && number === found.id && load(number), 1000);
}

function draw() {
  const shown = record.turns.map((turn, place) => {
    const here = { ...deeds, answered: place < record.turns.length - 1 };
    return turn.role === "user" ? userTurn(turn, here) : answerTurn(turn, here);
  });
  if (record.beside) {
    const last = record.turns.at(-1);
    const pair = [last, record.beside].sort((one, other) => one.id - other.id);
    const over = pair.every((turn) => turn.state !== "writing" && turn.text.trim());
    shown.splice(-1, 1, el("div", { class: "beside" }, pair.map((turn) => answerTurn(turn, deeds)),
      over ? verdict(...pair, given("strengths"), show) : null));
  }
  turns.replaceChildren(...shown);
  $("#empty").hidden = shown.length > 0;
  keepUp();
}

async function load(id) {
  try {
    const found = await api("GET", `/api/chat/conversations/${id}`);
    const other = number !== id || !record;
    if (other) choose.take(found);
    show(found);
  } catch (error) {
    toast(error.status === 404 ? "This conversation is not here any more." : error.message, "bad");
  }
}

async function open(id) {
  stop();
  window.history.pushState({}, "", id ? `/chat/${id}` : "/chat");
  await turnTo(id);
}

async function turnTo(id) {
  wrong("");
  number = id;
  record = null;
  typed();
  follow = true;
  if (id) await load(id);
  else blank();
  list.load();
}

function blank() {
  number = 0;
  record = null;
  turns.replaceChildren();
  $("#title").textContent = "New chat";
  document.title = "Chat · Puna";
  $("#menu").hidden = true;
  $("#empty").hidden = false;
  text.focus();
}

/** Say something, or have a message answered again. */
async function ask(what) {
  const body = { ...what, variants: choose.variants() };
  if (number) body.conversation_id = number;
  else body.system = system.value;
  return hear("/api/chat/ask", body);
}

/** Hear the answers; while the model loads, or the server is away, try again. -> whether it began */
async function hear(path, body) {
  if (running) return false;
  running = new AbortController();
  const { signal } = running;
  let begun = false;
  busy(true);
  wrong("");
  try {
    for (;;) {
      try {
        await stream(path, body, (event) => {
          begun = take(event) || begun;
        }, signal);
        break;
      } catch (error) {
        if (begun || signal.aborted || error.status !== 503) throw error;
        notice(`${error.message}. It is sent as soon as that is over; Stop takes it back.`);
        await new Promise((resolve) => setTimeout(resolve, 1000 * (error.retryAfter ?? 2)));
        if (signal.aborted) throw error;
      }
    }
  } catch (error) {
    if (!signal.aborted) wrong(error instanceof ApiError ? error.message : String(error));
  } finally {
    notice("");
    running = null;
    live = new Map();
    busy(false);
    if (begun && number) await load(number);
    list.load();
  }
  return begun;
}

/** One event of a stream. -> whether the server has what was sent */
function take(event) {
  if (event.begun) {
    begin(event.begun);
    return true;
  }
  const shown = live.get(event.turn);
  if (!shown) return true;
  if ("end" in event) {
    live.delete(event.turn);
    if (event.end) {
      shown.root.replaceWith(answerTurn(event.end, deeds));
      say(event.end.state === "complete" ? `The answer: ${event.end.text.slice(0, 1500)}`
        : "The answer ended before it was complete.");
    }
  } else {
    shown.take(event);
  }
  keepUp();
  return true;
}

function begin({ conversation, asked, answers }) {
  if (asked) {
    if (text.value.trim() === asked.text.trim()) text.value = "";
    keep();
  }
  if (conversation) {
    if (!number) window.history.replaceState({}, "", `/chat/${conversation.id}`);
    number = conversation.id;
    $("#title").textContent = conversation.title;
  }
  $("#empty").hidden = true;
  const after = asked ? asked.parent : answers[0].parent;
  const places = $$(":scope > *", turns);
  const last = places.findLastIndex((place) => place.matches(`[data-id="${after}"]`)
    || $(`[data-id="${after}"]`, place));
  for (const place of places.slice(last + 1)) place.remove();
  if (asked) turns.append(userTurn(asked, deeds));
  const made = answers.map((turn) => liveAnswer(turn));
  live = new Map(answers.map((turn, place) => [turn.id, made[place]]));
  const roots = made.map((one) => one.root);
  turns.append(roots.length === 2 ? el("div", { class: "beside" }, roots) : roots[0]);
  follow = true;
  if (conversation) list.load();
  say("The machine is writing.");
  keepUp();
}

/** Stop: the server ends the engine's work and keeps what is written; then the stream is closed. */
async function stop() {
  const heard = running;
  if (!heard) return;
  $("#stop").disabled = true;
  try {
    await Promise.all([...live.keys()].map((id) => api("POST", `/api/chat/turns/${id}/stop`, {})));
  } catch {
    // Closing the stream stops them too.
  } finally {
    heard.abort();
    $("#stop").disabled = false;
  }
}

async function send() {
  const words = text.value;
  if (running || !words.trim()) return;
  const last = record?.turns.at(-1);
  const parent = last?.role === "assistant" ? last.id : last?.id ?? null;
  if (last && last.role === "user") {
    wrong("The last message has no answer yet: retry it, or edit it.");
    return;
  }
  await ask(parent ? { parent_id: parent, text: words } : { text: words });
}

const list = history({ here: () => number, open, gone: () => open(0) });
$("#composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
text.addEventListener("keydown", (event) => {
  const phone = matchMedia("(pointer: coarse)").matches;
  const plain = event.key === "Enter" && !event.shiftKey && !phone;
  const meant = plain || (event.key === "Enter" && (event.ctrlKey || event.metaKey));
  if (event.isComposing || !meant) return;
  event.preventDefault();
  send();
});
$("#stop").addEventListener("click", stop);
$("#new").addEventListener("click", (event) => {
  if (event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  $("#history").classList.remove("open");
  open(0);
});
system.addEventListener("change", async () => {
  if (!number) return remember("chat.system", system.value);
  try {
    return await api("PUT", `/api/chat/conversations/${number}`, { system: system.value });
  } catch (error) {
    return toast(error.message, "bad");
  }
});
$("[data-act=rename]").addEventListener("click", () => {
  $("#menu").open = false;
  list.rename(record, ({ title }) => {
    $("#title").textContent = title;
    record.title = title;
  });
});
$("[data-act=delete]").addEventListener("click", async () => {
  $("#menu").open = false;
  try {
    await list.remove(record);
  } catch (error) {
    toast(error.message, "bad");
  }
});
const step = (by) => $$(`.turn .branches [data-step="${by}"]:not(:disabled)`).at(-1)?.click();
keys({
  Escape: [() => (running ? stop() : choose?.close()), "Stop the answer"],
  "mod+Enter": [send, "Send"],
  ArrowLeft: [() => step("-1"), "The version before"],
  ArrowRight: [() => step("1"), "The next version"],
  "/": [() => text.focus(), "Write"],
  s: [() => $("#search").focus(), "Search"],
  n: [() => open(0), "New chat"],
}, { title: "Chat" });
addEventListener("offline", () => notice("This machine is offline. What you write is kept."));
addEventListener("online", () => notice(""));
addEventListener("popstate", () => {
  stop();
  const found = /^\/chat\/([0-9]+)$/.exec(location.pathname);
  turnTo(found ? Number(found[1]) : 0);
});
$("#ideas").append(...IDEAS.map((words) => el("button", { type: "button", text: words,
  on: { click: () => {
    text.value = words;
    text.dispatchEvent(new Event("input", { bubbles: true }));
    text.focus();
  } } })));

/** Ask what there is; while no model is loaded, again. */
async function options() {
  try {
    const found = await api("GET", "/api/chat/options");
    if (choose) choose.list(found.models);
    else choose = settings(found);
    const loading = found.models.filter((model) => !model.ready);
    const names = loading.map((model) => model.name).join(", ");
    if (!running) notice(names && `Loading: ${names}. You can write already.`);
    if (loading.length) setTimeout(options, 2000);
  } catch (error) {
    notice(error.message);
    setTimeout(options, 3000);
  }
  return choose;
}

while (!(await options())) await new Promise((resolve) => setTimeout(resolve, 1000));
typed();
if (!number) system.value = recall("chat.system", "");
if (number) await load(number);
else if (!matchMedia("(pointer: coarse)").matches) text.focus();
list.load();
