// What a person may know about the own judgements.

import { $, api, chart, duration, el, number, percent, toast } from "./puna.js";
import { estimate, scale, share } from "./measures.js";

const STRENGTHS = {
  significantly_better: "Significantly",
  better: "Better",
  slightly_better: "Slightly",
  negligibly_better: "Negligibly",
};

function card(title, value, text, line) {
  return el(
    "article",
    { class: "card stack tight" },
    el("h2", { text: title }),
    el("p", { class: "stat" }, el("span", { text: value }), el("span", { text })),
    line,
  );
}

function show({ figures: own, limits }) {
  $("#nothing").hidden = own !== null;
  if (!own) return;
  const { agreement, gold, position, length, speed, strengths } = own;
  const none = "nothing to compare with yet";
  $("#own").replaceChildren(
    card("Judged", number(own.judged), "judgements that count"),
    card(
      "Agreement",
      share(agreement?.value),
      agreement
        ? `of the others chose as you did, of ${agreement.n} items: ${estimate(agreement, share)}`
        : none,
      scale(agreement),
    ),
    card(
      "Known answers",
      share(gold?.value),
      gold
        ? `right of ${gold.n}: ${estimate(gold, share)}; ${share(limits.gold)} is wanted`
        : "none met yet",
      scale(gold, { aim: limits.gold }),
    ),
    card(
      "Left or right",
      share(position?.value),
      position
        ? `of your choices stood on the left; the order is random, so half is expected`
        : none,
      scale(position, { aim: 0.5 }),
    ),
    card(
      "Longer answers",
      share(length?.value),
      length ? `of your choices were the longer one, of ${length.n} with a difference` : none,
      scale(length, { aim: 0.5 }),
    ),
    card(
      "Time",
      duration(speed?.median),
      `in the middle; ${percent(speed?.fast.value, 0)} faster than one reads`,
    ),
  );
  $("#flags").replaceChildren(
    ...own.flags.map((flag) => el("li", { class: "panel warn", text: flag.reason })),
  );
  chart($("#strengths"), {
    kind: "bar",
    title: "How much better, in your words",
    y: "judgements",
    series: [
      {
        name: "",
        values: Object.entries(STRENGTHS).map(([name, text]) => [text, strengths[name]]),
      },
    ],
  });
}

try {
  show(await api("GET", "/api/me/figures"));
} catch (error) {
  toast(error.message, "bad");
}
