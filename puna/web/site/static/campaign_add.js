// Adding items to a campaign: a text or a file of many, or one by one with the expected choice.

import { load } from "./campaign.js";
import { $, $$, api, el, toast, uuid } from "./puna.js";

const id = $("#campaign").dataset.campaign;
const MOST = 8 << 20; // bytes that the server takes
const HINTS = {
  normal: "Prompts are answered ahead by two of the campaign's variants; pairs with answers are "
    + "ready at once.",
  qualification: "Everybody answers these before they begin. Each needs two answers and says which "
    + "is the better one.",
  gold: "Mixed into the work unseen, to tell who still reads with care. Each needs two answers and "
    + "says which is the better one.",
};
const built = []; // items of the builder that are not stored yet
let source = "";
let key = uuid(); // an upload that is sent twice is stored once
let builtKey = uuid();

const purpose = () => $("[name=for]:checked").value;

function result(told) {
  const left = Object.entries(told.left_out);
  const lines = told.examples.map(({ line, reason }) => el("li", { text: `line ${line}: ${reason}` }));
  $("#result").replaceChildren(
    el("div", { class: "panel stack tight" },
      el("p", {}, el("strong", { text: `${told.items} items` }), ` are in batch ${told.batch}.`),
      left.length ? el("p", { class: "small",
        text: `Left out: ${left.map(([why, times]) => `${why} (${times})`).join(", ")}.` }) : null,
      lines.length ? el("details", { class: "small" }, el("summary", { text: "Which lines" }),
        el("ul", {}, lines)) : null));
}

async function send(body, sentKey) {
  const told = await api("POST", `/api/campaigns/${id}/batches`, body, { key: sentKey });
  result(told);
  await load();
  return told;
}

async function upload() {
  const text = $("#text").value;
  const button = $("#upload");
  button.setAttribute("aria-busy", "true");
  button.disabled = true;
  try {
    await send({ text, purpose: purpose(), source, system: $("#system").value,
      category: $("#category").value }, key);
    $("#text").value = "";
    source = "";
    key = uuid();
    size();
  } catch (error) {
    $("#result").replaceChildren(el("p", { class: "error", text: error.message }));
  }
  button.removeAttribute("aria-busy");
  button.disabled = false;
}

function size() {
  const text = $("#text").value;
  const lines = text.split("\n").filter((line) => line.trim()).length;
  $("#size").textContent = lines ? `${lines} lines${source ? ` of ${source}` : ""}`
    : "Paste, or drop a file here.";
}

async function take(file) {
  if (!file) return;
  if (file.size > MOST * 0.9) {
    toast(`${file.name} has more than ${Math.floor((MOST * 0.9) / 2 ** 20)} MB; upload it in parts.`, "bad");
    return;
  }
  $("#text").value = await file.text();
  source = file.name.slice(0, 200);
  key = uuid();
  size();
}

function listBuilt() {
  $("#b-list").replaceChildren(...built.map((item, place) => el("li", {},
    el("div", { class: "spread" }, el("bdi", { text: item.prompt.slice(0, 80) }),
      el("button", { type: "button", class: "quiet", text: "Remove", on: { click: () => {
        built.splice(place, 1);
        builtKey = uuid();
        listBuilt();
      } } })))));
  $("#b-save").hidden = !built.length;
  $("#b-save").textContent = `Store ${built.length} ${built.length === 1 ? "item" : "items"}`;
}

function build() {
  const value = (name) => $(`#b-${name}`).value.trim();
  const chosen = $("[name=b-chosen]:checked");
  const needed = purpose() !== "normal";
  const lacks = [["prompt", "Write a prompt."], ["first", "Write the first answer."],
    ["second", "Write the second answer."]].find(([name]) => !value(name));
  if (lacks) {
    toast(lacks[1], "bad");
    $(`#b-${lacks[0]}`).focus();
    return;
  }
  if (needed && !chosen) {
    toast("Say which answer is the better one.", "bad");
    $("[name=b-chosen]").focus();
    return;
  }
  const item = { prompt: value("prompt"), answers: [value("first"), value("second")] };
  if (needed) item.chosen = Number(chosen.value);
  if (needed && $("#b-safety").value) item.safety = $("#b-safety").value;
  built.push(item);
  builtKey = uuid();
  for (const name of ["prompt", "first", "second"]) $(`#b-${name}`).value = "";
  if (chosen) chosen.checked = false;
  listBuilt();
  $("#b-prompt").focus();
}

async function storeBuilt() {
  try {
    const text = built.map((item) => JSON.stringify(item)).join("\n");
    await send({ text, purpose: purpose() }, builtKey);
    built.length = 0;
    builtKey = uuid();
    listBuilt();
  } catch (error) {
    toast(error.message, "bad");
  }
}

function fit() {
  $("#for-hint").textContent = HINTS[purpose()];
  const known = purpose() !== "normal";
  $("#b-chosen").hidden = !known;
  $("#b-safety-field").hidden = !known;
}

addEventListener("campaign", ({ detail }) => {
  const category = $("#category");
  const names = detail.settings.categories ?? [];
  if (category.options.length !== names.length + 1) {
    category.replaceChildren(el("option", { value: "", text: "none" }),
      ...names.map((name) => el("option", { value: name, text: name })));
  }
  $("#tab-add").hidden = detail.kind === "redteam" || detail.state === "closed";
});
for (const radio of $$("[name=for]")) radio.addEventListener("change", () => {
  key = uuid();
  builtKey = uuid();
  fit();
});
for (const name of ["text", "system", "category"]) $(`#${name}`).addEventListener("input", () => {
  key = uuid();
  size();
});
$("#upload").addEventListener("click", upload);
$("#b-add").addEventListener("click", build);
$("#b-save").addEventListener("click", storeBuilt);
$("#file").addEventListener("change", ({ target }) => take(target.files[0]));
const drop = $("#drop");
drop.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  take(event.dataTransfer.files[0]);
});
fit();
