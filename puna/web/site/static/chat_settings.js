// Which model answers, and how: one form for each of two variants, bounds as the server says.

import { $, el, recall, remember } from "./puna.js";

const SLIDERS = [
  ["temperature", "Temperature", 0.05, "0: always the likeliest word; higher: more varied."],
  ["top_p", "Top-p", 0.01, "Only the likeliest words that make up this share."],
  ["max_tokens", "Length of the answer", 1, ""],
  ["top_k", "Top-k", 1, "Only so many of the likeliest words; 0: all."],
  ["repetition_penalty", "Repetition penalty", 0.01, "Above 1: says again less of what it said."],
];
const PRACTICAL = { top_k: 200, repetition_penalty: 2 }; // where a slider ends; numbers go further

/** The settings of one variant, in a fieldset. `select`: the list of models. */
function variantForm(place, name, select, bounds, kept, changed) {
  const fields = {};
  const rows = SLIDERS.map(([field, label, step, hint]) => {
    const { min, max, default: usual } = bounds[field];
    const least = field === "top_p" || field === "repetition_penalty" ? Math.max(min, 0.01) : min;
    const id = `${field}-${name}`;
    const most = PRACTICAL[field] ?? max;
    const slider = el("input", { type: "range", min: least, max: most, step, "aria-label": label });
    const box = el("input", { type: "number", id, min: least, max, step: "any" });
    const put = (value) => {
      slider.value = value;
      box.value = value;
    };
    put(kept?.[field] ?? usual);
    slider.addEventListener("input", () => {
      box.value = slider.value;
      changed();
    });
    box.addEventListener("change", () => {
      const value = Number.parseFloat(box.value);
      put(Math.min(max, Math.max(least, Number.isFinite(value) ? value : usual)));
      changed();
    });
    fields[field] = { box, slider, put, usual, hint: el("span", { class: "hint", text: hint }) };
    return el("div", { class: "slider" }, el("label", { for: id, text: label }), slider, box,
      fields[field].hint);
  });
  const seed = el("input", { type: "number", min: 0, step: 1, id: `seed-${name}`,
    placeholder: "any", value: kept?.seed ?? "" });
  seed.addEventListener("change", changed);
  place.append(...(name === "b" ? [el("div", { class: "field" },
    el("label", { for: "model-b", text: "Model" }), select)] : []), ...rows,
  el("div", { class: "slider" }, el("label", { for: `seed-${name}`, text: "Seed" }), seed,
    el("span", { class: "hint", text: "The same number gives the same answer again." })));
  const values = () => {
    const found = {};
    for (const [field, { box }] of Object.entries(fields)) found[field] = Number(box.value);
    found.max_tokens = Math.round(found.max_tokens);
    found.top_k = Math.round(found.top_k);
    if (seed.value !== "") found.seed = Math.max(0, Math.round(Number(seed.value)));
    return found;
  };
  const take = (given) => {
    for (const [field, { put, usual }] of Object.entries(fields)) put(given?.[field] ?? usual);
    seed.value = given?.seed ?? "";
  };
  const fit = (context) => {
    const { box, slider, put, hint } = fields.max_tokens;
    if (!context) return;
    slider.max = context - 1;
    box.max = context - 1;
    if (Number(box.value) >= context) put(Math.max(1, Math.floor(context / 2)));
    hint.textContent = `The model reads and writes ${context} tokens together.`;
  };
  return { values, take, fit };
}

/** All settings. `options`: what /api/chat/options says. */
export function settings(options) {
  const kept = recall("chat.settings", {});
  const selects = { a: $("#model-a"), b: el("select", { id: "model-b" }) };
  const forms = {};
  let models = options.models;
  const save = () => remember("chat.settings", { a: forms.a.values(), b: forms.b.values(),
    models: [selects.a.value, selects.b.value] });
  const changed = () => {
    save();
    told();
  };
  for (const name of ["a", "b"]) {
    const form = $(`#settings-${name}`);
    const start = kept[name] ?? (name === "b" ? { temperature: 1.1 } : null);
    forms[name] = variantForm(form, name, selects[name], options.bounds, start, changed);
    selects[name].addEventListener("change", changed);
  }
  const told = () => {
    for (const name of ["a", "b"]) {
      const found = models.find((model) => model.name === selects[name].value);
      forms[name].fit(found?.context);
      if (name === "b") continue;
      $("#version").hidden = !found?.version;
      $("#version").textContent = found?.version ?? "";
      $("#version").title = found ? `${found.weights}, context ${found.context} tokens` : "";
    }
  };
  const list = (now) => {
    models = now;
    for (const [place, name] of ["a", "b"].entries()) {
      const before = selects[name].value || kept.models?.[place];
      selects[name].replaceChildren(...models.map((model) => el("option", { value: model.name,
        text: model.ready ? model.name : `${model.name} (${model.gone ? "gone" : "loading"})` })));
      if (models.some((model) => model.name === before)) selects[name].value = before;
    }
    told();
  };
  list(models);
  const compare = $("#compare");
  const comparing = () => compare.getAttribute("aria-pressed") === "true";
  compare.addEventListener("click", () => {
    const on = !comparing();
    compare.setAttribute("aria-pressed", String(on));
    $("#settings-b").hidden = !on;
    if (on) panel(true);
  });
  const panel = (open) => {
    $("#settings").hidden = !open;
    $("#open-settings").setAttribute("aria-expanded", String(open));
    if (open) $("#settings textarea").focus();
    else $("#open-settings").focus();
  };
  $("#open-settings").addEventListener("click", () => panel($("#settings").hidden));
  $("[data-close=settings]").addEventListener("click", () => panel(false));
  $("#defaults").addEventListener("click", () => {
    forms.a.take(null);
    forms.b.take({ temperature: 1.1 });
    changed();
  });
  const variant = (name) => ({ model: selects[name].value, settings: forms[name].values() });
  return {
    list,
    variants: () => (comparing() ? [variant("a"), variant("b")] : [variant("a")]),
    settings: () => forms.a.values(),
    ready: () => models.find((model) => model.name === selects.a.value)?.ready ?? false,
    close: () => !$("#settings").hidden && (panel(false), true),
    take: (record) => {
      if (models.some((model) => model.name === record.model)) selects.a.value = record.model;
      if (Object.keys(record.settings).length) forms.a.take(record.settings);
      told();
    },
  };
}
