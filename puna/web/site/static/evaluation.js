// The evaluation's results: versions side by side, on one scale, and their safety.

import { $, $$, el, number, percent } from "./puna.js";
import { asking, estimate, options, outcomes, scale, share, table, why } from "./measures.js";

const BY = {
  by_kind: "Turns",
  by_category: "Category",
  by_turns: "Number of turns",
  by_length: "Fifth by length",
};
const KINDS = { single: "Single-turn", multi: "Multi-turn", none: "no category" };
const form = $("#wanted");
const right = (text) => ({ text, number: true });
const { query, load } = asking(form, "/api/evaluation", show);

function show(found) {
  options(
    form.elements.campaign,
    [["", "All evaluations"], ...found.campaigns.map((row) => [row.id, row.name])],
    found.campaign?.id,
  );
  for (const link of $$("#exports a")) {
    link.href = `/api/evaluation.csv?${query()}&table=${link.dataset.table}`;
  }
  $("#nothing").hidden = found.pairs.length + found.safety.length > 0;
  $("#compared").hidden = !found.pairs.length;
  $("#harm").hidden = !found.safety.length;
  $("#pairs").replaceChildren(...found.pairs.map(pairCard));
  showScale(found.scale);
  $("#safety").replaceChildren(...found.safety.map(safetyCard));
  showViolations(found.safety);
}

function pairCard(row) {
  const { AC, alpha } = row.agreement;
  const groups = Object.entries(BY).map(([key, title]) =>
    el(
      "section",
      { class: "stack tight" },
      el("h4", { text: title }),
      table(
        ["Group", right("Prompts"), "Win, tie, loss", right("Win"), right("Loss")],
        row[key].map((part) => [
          KINDS[part.group] ?? String(part.group),
          number(part.prompts),
          outcomes(part),
          estimate(part.win, share),
          estimate(part.loss, share),
        ]),
        title,
      ),
    ),
  );
  return el(
    "article",
    { class: "card stack" },
    el(
      "h3",
      { class: "versus" },
      el("span", { text: row.first }),
      el("span", { class: "muted", text: "against" }),
      el("span", { text: row.second }),
    ),
    outcomes(row),
    el(
      "dl",
      { class: "grid figures" },
      ...["win", "tie", "loss"].map((name) =>
        el(
          "div",
          { class: `stat ${name}` },
          el("dd", { text: percent(row[name].value) }),
          el("dt", {
            text: `${name}, 95 % from ${percent(row[name].low)} to ${percent(row[name].high)}`,
          }),
        ),
      ),
      el(
        "div",
        { class: "stat" },
        el("dd", { text: AC.why ? "–" : number(AC.value, 2) }),
        el("dt", { text: AC.why ?? `AC2, ${estimate(AC)}; α ${estimate(alpha)}` }),
      ),
    ),
    el("p", {
      class: "small muted",
      text: `${number(row.prompts)} prompts, ${number(row.ratings)} ratings`,
    }),
    el(
      "details",
      {},
      el("summary", { text: "By category, turns and length" }),
      el("div", { class: "stack groups" }, groups),
    ),
  );
}

function showScale(found) {
  if (found.why) {
    $("#scale").replaceChildren(why(found));
    return;
  }
  const { versions } = found;
  const [from, to] = [
    Math.min(...versions.map((row) => row.low)),
    Math.max(...versions.map((row) => row.high)),
  ];
  const room = (to - from || 1) * 0.05;
  $("#scale").replaceChildren(
    table(
      ["Version", right("Elo"), right("95 %"), "On one line", right("Games")],
      versions.map((row) => [
        row.name,
        number(row.elo, 0),
        `${number(row.low, 0)} to ${number(row.high, 0)}`,
        scale({ ...row, value: row.elo }, { from: from - room, to: to + room }),
        number(row.games),
      ]),
      "Versions on one scale",
    ),
    el("p", {
      class: "small muted",
      text:
        "Bradley and Terry's model with Davidson's ties by maximum " +
        "likelihood; 400 points are odds of ten to one, the mean is 1000. Bootstrap intervals." +
        (found.adjusted
          ? " The games alone leave the scale open, as when a version lost nothing," +
            " so half a win was added to each side of each pair."
          : ""),
    }),
  );
}

function showViolations(found) {
  const most = Math.max(0.05, ...found.map((row) => row.violation.high));
  $("#violations").replaceChildren(
    table(
      ["Model", right("Violations"), `0 to ${share(most)}`, right("Mean rating"), right("Answers")],
      found.map((row) => [
        row.model,
        estimate(row.violation, percent),
        scale(row.violation, { to: most }),
        estimate(row.mean),
        number(row.prompts),
      ]),
      "Violations by model",
    ),
  );
}

function safetyCard(row) {
  const part = (name, rows) =>
    table(
      [name, right("Answers"), right("Violations"), right("Mean rating")],
      rows.map((one) => [
        KINDS[one.group] ?? one.group,
        number(one.prompts),
        estimate(one.violation, percent),
        estimate(one.mean),
      ]),
      name,
    );
  const { AC } = row.agreement;
  return el(
    "details",
    { class: "card" },
    el("summary", {
      text: `${row.model}: ${percent(row.violation.value)} of ${number(row.prompts)}`,
    }),
    el(
      "div",
      { class: "stack groups" },
      el("p", { class: "small", text: AC.why ?? `AC2 ${estimate(AC)}` }),
      part("Turns", row.by_kind),
      part("Risk", row.by_category),
    ),
  );
}

form.addEventListener("change", load);
load();
