// The form of a campaign: defaults by its kind, variants, guidelines with a preview.

import { $, $$, api, confirm, el, html, toast, uuid } from "./puna.js";

const form = $("#form");
const campaign = Number(form.dataset.campaign);
const key = uuid(); // a campaign that is sent twice is made once
const LISTS = ["categories", "risks", "vectors"];
const NUMBERS = ["overlap", "quota", "max_turns"];
const SHARES = ["gold_share", "pass_mark"];
const HINTS = {
  preference: "Two of these answer each prompt, drawn by lot. Different models or temperatures give "
    + "people something to choose between. None if you upload answers with the prompts.",
  evaluation: "Exactly the two that are compared. None if you upload answers with the prompts.",
  redteam: "The models that are attacked, in turn.",
};
let models = [];
let guideDefault = "";
let touched = new Set(); // fields that were changed by hand: new defaults leave them alone
let dirty = false;

const value = (name) => form.elements.namedItem(name)?.value ?? "";
const kind = () => value("kind");

function field(label, input, name) {
  input.id = uuid();
  return el("div", { class: "field", data: { field: name } },
    el("label", { for: input.id, text: label }), input, el("span", { class: "error", role: "alert" }));
}

function variantRow(given, index) {
  const model = el("input", { value: given.model, list: "models", "data-part": "model",
    autocomplete: "off", maxlength: "200" });
  const amount = (name, low, high, step) => el("input", { type: "number", min: low, max: high, step,
    value: given[name], "data-part": name });
  const at = `variants[${index}]`;
  return el("div", { class: "variant", role: "group", "aria-label": `Variant ${index + 1}` },
    field("Model", model, `${at}.model`),
    field("Temperature", amount("temperature", 0, 2, 0.05), `${at}.temperature`),
    field("Top-p", amount("top_p", 0.01, 1, 0.01), `${at}.top_p`),
    field("Most tokens", amount("max_tokens", 1, 100000, 1), `${at}.max_tokens`),
    el("button", { type: "button", class: "quiet", "aria-label": `Remove variant ${index + 1}`,
      text: "Remove", on: { click: () => {
        const rest = variants();
        rest.splice(index, 1);
        showVariants(rest);
        mark("variants");
      } } }));
}

function variants() {
  return $$(".variant").map((row) => Object.fromEntries($$("[data-part]", row).map((input) =>
    [input.dataset.part, input.dataset.part === "model" ? input.value.trim()
      : Number(input.value)])));
}

function showVariants(given) {
  $("#variants").replaceChildren(...given.map(variantRow));
  const most = kind() === "evaluation" ? 2 : 8;
  $("#add-variant").disabled = given.length >= most;
  $("#variants-hint").textContent = HINTS[kind()];
}

function mark(name) {
  touched.add(name);
  dirty = true;
}

/** Only what the kind has is shown. */
function fit(settings) {
  for (const part of $$("[data-setting]")) part.hidden = !(part.dataset.setting in settings);
  const judged = kind() !== "redteam";
  $("#care").hidden = !judged;
  $("#lists").hidden = !LISTS.some((name) => name in settings);
  for (const name of ["max_turns", "own_prompts"]) {
    $(`[data-field="${name}"]`).hidden = kind() === "evaluation";
  }
}

function fill(rules, onlyUntouched) {
  const free = (name) => !onlyUntouched || !touched.has(name);
  for (const name of ["kind", "aim"]) {
    const radio = $(`[name="${name}"][value="${rules[name]}"]`);
    if (radio) radio.checked = true;
  }
  if (free("name") && rules.name) $("#name").value = rules.name;
  for (const name of NUMBERS) if (free(name)) $(`#${name}`).value = rules[name];
  for (const name of SHARES) if (free(name)) $(`#${name}`).value = Math.round(rules[name] * 1000) / 10;
  if (free("lease")) $("#lease").value = rules.lease_seconds / 60;
  if (free("own_prompts")) $("#own_prompts").checked = rules.own_prompts;
  const { settings } = rules;
  for (const name of LISTS) {
    if (free(name)) $(`#${name}`).value = (settings[name] ?? []).join("\n");
  }
  if (free("context_tokens")) $("#context_tokens").value = settings.context_tokens ?? 0;
  if (free("round")) $("#round").value = settings.round ?? 1;
  if (free("review_share")) {
    $("#review_share").value = Math.round((settings.review_share ?? 0) * 1000) / 10;
  }
  if (free("guidelines")) {
    $("#guidelines").value = rules.guidelines;
    preview();
  }
  fit(settings);
  if (free("variants") || kind() !== rules.kind) showVariants(rules.variants);
  else showVariants(variants());
}

function rules() {
  const amount = (name) => (value(name) === "" ? Number.NaN : Number(value(name)));
  const settings = {};
  for (const part of $$("[data-setting]")) {
    const name = part.dataset.setting;
    if (part.hidden) continue;
    if (LISTS.includes(name)) {
      settings[name] = value(name).split("\n").map((line) => line.trim()).filter(Boolean);
    } else settings[name] = name === "review_share" ? amount(name) / 100 : amount(name);
  }
  const judged = kind() !== "redteam";
  return {
    name: value("name").trim(), kind: kind(), aim: value("aim"), guidelines: value("guidelines"),
    overlap: amount("overlap"), quota: amount("quota"), lease_seconds: amount("lease") * 60,
    max_turns: kind() === "evaluation" ? 1 : amount("max_turns"),
    own_prompts: kind() !== "evaluation" && $("#own_prompts").checked,
    gold_share: judged ? amount("gold_share") / 100 : 0,
    pass_mark: judged ? amount("pass_mark") / 100 : 0,
    variants: variants(), settings,
  };
}

function complain(param, message) {
  for (const error of $$(".error", form)) error.textContent = "";
  for (const input of $$("[aria-invalid]", form)) input.removeAttribute("aria-invalid");
  let name = { lease_seconds: "lease" }[param] ?? param ?? "";
  for (; name; name = name.replace(/[.[]?[^.[]*$/, "")) {
    const short = name.replace(/^settings\./, "");
    const place = $(`[data-field="${name}"]`, form) ?? $(`[data-field="${short}"]`, form);
    if (!place) continue;
    const input = $("input, textarea", place);
    if (place.matches(".field") && input) input.setAttribute("aria-invalid", "true");
    $$(".error", place).at(-1).textContent = message;
    input?.focus();
    place.scrollIntoView({ block: "center", behavior: "smooth" });
    return;
  }
  toast(message, "bad");
}

/** The first number that the browser itself finds wrong. */
function wrongNumber() {
  for (const input of $$("input[type=number]", form)) {
    if (input.offsetParent === null || input.checkValidity()) continue;
    const name = input.closest("[data-field]").dataset.field;
    return [name, input.validationMessage];
  }
  return null;
}

let waiting = 0;
function preview() {
  clearTimeout(waiting);
  waiting = setTimeout(async () => {
    try {
      const { html: made } = await api("POST", "/api/preview", { text: $("#guidelines").value });
      html($("#preview"), made);
    } catch (error) {
      toast(error.message, "bad");
    }
  }, 300);
}

async function newDefaults(everything = false) {
  const query = new URLSearchParams({ kind: kind() || "preference", aim: value("aim") || "helpfulness" });
  const told = await api("GET", `/api/campaigns/defaults?${query}`);
  models = told.models;
  guideDefault = told.rules.guidelines;
  if (everything || !campaign) fill(told.rules, true);
  return told;
}

async function save(event) {
  event.preventDefault();
  const wrong = wrongNumber();
  if (wrong) return complain(...wrong);
  const button = $("[type=submit]", form);
  button.setAttribute("aria-busy", "true");
  button.disabled = true;
  try {
    const path = campaign ? `/api/campaigns/${campaign}` : "/api/campaigns";
    const { id } = await api(campaign ? "PUT" : "POST", path, rules(), { key });
    dirty = false;
    location.assign(`/campaigns/${id}`);
  } catch (error) {
    complain(error.param, error.message);
  } finally {
    button.removeAttribute("aria-busy");
    button.disabled = false;
  }
  return undefined;
}

form.addEventListener("submit", save);
form.addEventListener("input", (event) => {
  const name = event.target.closest("[data-part]") ? "variants" : event.target.name || event.target.id;
  mark(name);
  if (name === "guidelines") preview();
  if (name === "kind") touched.delete("variants");
  if ((name === "kind" || name === "aim") && !campaign) {
    newDefaults().catch((error) => toast(error.message, "bad"));
  }
});
$("#add-variant").addEventListener("click", () => {
  const rest = variants();
  const last = rest.at(-1) ?? { model: models[0] ?? "", temperature: 0.7, top_p: 0.9, max_tokens: 512 };
  showVariants([...rest, { ...last }]);
  mark("variants");
});
$("#restore").addEventListener("click", async () => {
  const text = $("#guidelines");
  if (text.value.trim() && text.value !== guideDefault
    && !(await confirm("Replace what is written with the default guidelines?"))) return;
  text.value = guideDefault;
  touched.delete("guidelines");
  preview();
});
addEventListener("beforeunload", (event) => dirty && event.preventDefault());

async function begin() {
  try {
    if (campaign) {
      const told = await api("GET", `/api/campaigns/${campaign}`);
      $(`[name="kind"][value="${told.campaign.kind}"]`).checked = true;
      $(`[name="aim"][value="${told.campaign.aim}"]`).checked = true;
      await newDefaults();
      fill(told.campaign, false);
    } else await newDefaults(true);
    form.append(el("datalist", { id: "models" }, models.map((name) => el("option", { value: name }))));
  } catch (error) {
    toast(error.message, "bad");
  }
}

begin();
