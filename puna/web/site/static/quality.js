// The quality page: agreement, annotators, drift, sizes, disagreements of one campaign.

import {
  $,
  $$,
  chart,
  duration,
  el,
  number,
  percent,
  recall,
  remember,
} from "./puna.js";
import { asking, estimate, options, scale, share, table, why } from "./measures.js";

const STRENGTHS = [
  ["significantly_better", "Significantly better"],
  ["better", "Better"],
  ["slightly_better", "Slightly better"],
  ["negligibly_better", "Negligibly better, unsure"],
];
const BINS = [
  ["chosen_safe", "Only the chosen one is safe"],
  ["both_safe", "Both are safe"],
  ["both_unsafe", "Neither is safe"],
  ["rejected_safe", "Only the rejected one is safe"],
];
const OF = { choice: "Which answer", degree: "How much better", safety: "Which answers are safe" };
const SIZES = ["comparisons", "turns", "example", "prompt", "response"];
const FEW = 8; // items shown at once
const form = $("#wanted");
const panels = ["agreement", "batches", "annotators", "drift", "sizes", "disagreements"];
const { query, load } = asking(form, "/api/quality", show);

function show(found) {
  const known = found.campaigns.map((row) => [row.id, row.name]);
  if (found.campaign && !known.some(([id]) => id === found.campaign.id)) {
    known.push([found.campaign.id, found.campaign.name]);
  }
  options(form.elements.campaign, known, found.campaign?.id);
  $("#nothing").hidden = found.judgements > 0;
  $("#figures").hidden = found.judgements === 0;
  for (const link of $$("#exports a")) {
    link.href = `/api/quality.csv?${query()}&table=${link.dataset.table}`;
  }
  if (!found.judgements) return;
  $("#review").href = `/review?campaign=${found.campaign.id}`;
  $("#counted").textContent =
    `${number(found.judgements)} judgements of ${number(found.items)} items` +
    ` by ${number(found.annotators.length)} people` +
    (found.gold
      ? `, ${number(found.gold)} of them on gold items, which no figure of agreement counts`
      : "");
  for (const name of panels) draw[name](found, $(`#${name}`));
}

function coefficient(name, found) {
  const { AC, alpha, percent: observed } = found;
  return el(
    "article",
    { class: "card stack tight" },
    el("h3", { text: OF[name] }),
    el(
      "p",
      { class: "stat" },
      el("span", { text: AC.why ? "–" : number(AC.value, 2) }),
      el("span", { text: AC.why ? "" : `Gwet's ${AC.name}, ${interval(AC)}` }),
    ),
    scale(AC, { from: Math.min(0, AC.low ?? 0) }),
    why(AC),
    el(
      "dl",
      { class: "pairs small" },
      pair("Krippendorff's α", alpha),
      pair("Agreement, observed", observed, share),
      AC.why
        ? null
        : el(
            "div",
            {},
            el("dt", { text: "Agreement by chance" }),
            el("dd", { text: share(AC.expected) }),
          ),
      AC.why
        ? null
        : el(
            "div",
            {},
            el("dt", { text: "Items with two ratings" }),
            el("dd", { text: number(AC.items) }),
          ),
    ),
  );
}

const interval = ({ low, high, se }) =>
  (low === null
    ? "too few items for an interval"
    : `95 % from ${number(low, 2)} to ${number(high, 2)}`) +
  (se === null ? "" : `, s.e. ${number(se, 3)}`);

const pair = (name, found, as) =>
  el(
    "div",
    {},
    el("dt", { text: name }),
    el("dd", { text: estimate(found, as), title: found.why }),
  );

const draw = {
  agreement(found, place) {
    place.replaceChildren(
      ...Object.entries(found.agreement).map(([name, one]) => coefficient(name, one)),
    );
  },

  batches(found, place) {
    const values = (name) =>
      found.batches
        .filter((row) => row.agreement[name]?.AC.value !== undefined)
        .map((row) => {
          const { value, low, high } = row.agreement[name].AC;
          return [row.batch, value, low, high];
        });
    const named = Object.keys(found.agreement)
      .map((name) => ({ name: OF[name], values: values(name) }))
      .filter((series) => series.values.length);
    chart($(".chart", place), {
      kind: "line",
      series: named,
      title: "Gwet's coefficient, with 95 % intervals",
      x: "batch",
      y: "AC1, AC2",
    });
    $(".table", place).replaceChildren(
      table(
        [
          "Batch",
          ...["Judgements", "People", ...Object.values(OF).slice(0, named.length || 2)].map(right),
        ],
        found.batches.map((row) => [
          row.batch,
          number(row.judgements),
          number(row.people),
          ...Object.keys(OF)
            .slice(0, named.length || 2)
            .map((name) => estimate(row.agreement[name]?.AC)),
        ]),
        "Agreement by batch",
      ),
    );
  },

  annotators(found, place) {
    const { limits } = found;
    const rows = found.annotators.toSorted(
      (a, b) => b.flags.length - a.flags.length || b.judged - a.judged,
    );
    $(".table", place).replaceChildren(
      table(
        [
          "Annotator",
          "To look at",
          ...["Judged", "Agrees", "AC1 without", "Gold right", "Left", "Longer", "Seconds"].map(
            right,
          ),
        ],
        rows.map((row) => [
          row.name,
          el(
            "span",
            { class: "flagged" },
            row.flags.length
              ? row.flags.map((flag) => el("span", { class: "badge warn", text: flag.reason }))
              : el("span", { class: "muted", text: "nothing" }),
          ),
          number(row.judged),
          measured(row.agreement),
          number(row.without, 2),
          measured(row.gold, limits.gold),
          measured(row.position, 0.5),
          measured(row.length, 0.5),
          row.speed
            ? el("span", {
                text: number(row.speed.median, 0),
                title: `${share(row.speed.fast.value)} too fast`,
              })
            : "–",
        ]),
        "Annotators",
      ),
    );
    const reasons = [
      `A flag is a reason to talk. It is raised from ${limits.cases} judgements`,
      `(${limits.gold_cases} gold items) on: gold below ${share(limits.gold)} with its whole`,
      `interval; agreement ${share(limits.agreement)} below all pairs of people; left and right`,
      `unequal at p < ${limits.position}; the longer answer from ${share(limits.length)} on and`,
      `more often than the others; over ${share(limits.fast)} of judgements faster than`,
      `${limits.words_per_second} words a second or ${duration(limits.least_seconds)}; one`,
      `strength over ${share(limits.same_strength)}.`,
    ];
    $(".stated", place).textContent = reasons.join(" ");
  },

  drift(found, place) {
    place.hidden = !Object.keys(found.whole.strengths).length;
    for (const [name, title] of STRENGTHS) {
      const own = found.batches
        .filter((row) => row.strengths[name])
        .map((row) => {
          const { value, low, high } = row.strengths[name];
          return [row.batch, value, low, high];
        });
      chart($(`[data-strength=${name}]`, place), {
        kind: "line",
        title,
        format: "percent",
        range: [0, 0.6],
        x: "batch",
        y: "share",
        height: 180,
        series: [
          { name: "Here", values: own },
          { name: "Paper", values: found.paper.strengths[name] },
        ],
      });
    }
    $(".table", place).replaceChildren(
      table(
        ["Batch", ...STRENGTHS.map(([, title]) => right(title))],
        found.batches.map((row) => [
          row.batch,
          ...STRENGTHS.map(([name]) => estimate(row.strengths[name], share)),
        ]),
        "Strengths by batch",
      ),
    );
    const bins = BINS.filter(([name]) => found.whole.safety[name]);
    $("#safety").hidden = !bins.length;
    $("#safety .table").replaceChildren(
      table(
        ["Bin", right("Here"), right("Paper")],
        bins.map(([name, title]) => [
          title,
          estimate(found.whole.safety[name], share),
          share(found.paper.safety[name]),
        ]),
        "Safety bins",
      ),
    );
    chart($("#safety .chart"), {
      kind: "stack",
      title: "Safety bins",
      format: "percent",
      range: [0, 1],
      x: "batch",
      y: "share",
      series: bins.map(([name, title]) => ({
        name: title,
        values: found.batches
          .filter((row) => row.safety[name])
          .map((row) => [row.batch, row.safety[name].value]),
      })),
    });
  },

  sizes(found, place) {
    const { unit, paper } = found;
    const line = (title, row) => [
      title,
      ...SIZES.map((name) => number(row?.[name], name === "comparisons" ? 0 : 1)),
    ];
    const rows = found.batches.map((row) => line(`Batch ${row.batch}`, row.sizes));
    rows.push(line("All", found.whole.sizes), line("Paper, Table 6", paper.all));
    if ($("#with-paper").checked) {
      paper.batches.forEach((row, i) => rows.push(line(`Paper, batch ${i + 1}`, row)));
    }
    $(".table", place).replaceChildren(
      table(
        [
          "Batch",
          right("Comparisons"),
          right("Turns a dialogue"),
          ...["an example", "a prompt", "a response"].map((name) =>
            right(`${unit} ${name}`.replace(/^./, (c) => c.toUpperCase())),
          ),
        ],
        rows,
        "Sizes by batch",
      ),
    );
    $(".stated", place).textContent =
      unit === "tokens"
        ? "Tokens of the tokenizer of the first model that is served here."
        : "Words: no model is loaded whose tokenizer could count. The paper's figures are tokens.";
    $("#with-paper").onchange = () => draw.sizes(found, place);
  },

  disagreements(found, place) {
    const rows = found.disagreements.map((row) =>
      el(
        "li",
        { class: "card stack tight" },
        el("p", { class: "asked", text: row.prompt, dir: "auto" }),
        el(
          "p",
          { class: "row tight small" },
          el("a", {
            href: `/campaigns/${found.campaign.id}/items/${row.item}`,
            text: `Item ${row.item}`,
          }),
          row.category ? el("span", { class: "muted", text: row.category }) : null,
          row.grades.map(({ name, grade }) =>
            el("span", {
              class: "badge",
              title: graded(grade),
              text: `${name}: ${side(grade)} ${Math.abs(grade) || ""}`,
            }),
          ),
        ),
      ),
    );
    const more = rows.splice(FEW);
    if (!rows.length) {
      rows.push(
        el("li", {
          class: "muted",
          text: "No two people chose different answers to the same item.",
        }),
      );
    }
    place.replaceChildren(
      ...rows,
      more.length
        ? el(
            "li",
            {},
            el(
              "details",
              {},
              el("summary", { text: `${more.length} more` }),
              el("ul", { class: "stack tight" }, more),
            ),
          )
        : "",
    );
  },
};

const side = (grade) => (grade > 0 ? "first" : grade < 0 ? "second" : "tie");
const right = (text) => ({ text, number: true });
const graded = (grade) =>
  `${grade > 0 ? "+" : ""}${grade}: from -4, the second significantly better, to 4, the first`;

function measured(found, aim) {
  if (!found) return "–";
  return el(
    "div",
    { class: "measured", title: `${estimate(found, percent)} of ${found.n}` },
    el("span", { text: share(found.value) }),
    scale(found, { aim }),
  );
}

form.addEventListener("change", () => {
  remember("quality-weights", form.elements.weights.value);
  load();
});
const before = recall("quality-weights");
if ([...form.elements.weights.options].some((option) => option.value === before)) {
  form.elements.weights.value = before;
}
load();
