// The gallery: every component does what it does elsewhere.

import { $, api, chart, confirm, draft, keys, toast } from "./puna.js";

const said = $("#g-said");
const kept = draft($("#g-note"), "gallery");

chart($("#g-line"), {
  kind: "line", title: "Agreement", y: "AC2", x: "batch", aim: 0.6, range: [0, 1],
  series: [
    { name: "helpfulness", values: [[1, 0.52, 0.45, 0.59], [2, 0.58, 0.53, 0.64], [3, 0.63, 0.58, 0.68],
      [4, 0.66, 0.62, 0.7], [5, 0.71, 0.66, 0.75]] },
    { name: "safety", values: [[1, 0.61, 0.5, 0.7], [2, 0.64, 0.56, 0.72], [3, 0.62, 0.55, 0.69],
      [4, 0.7, 0.65, 0.76], [5, 0.74, 0.7, 0.79]] },
  ],
});
chart($("#g-bar"), {
  kind: "bar", title: "Wins against v2", format: "percent", y: "share",
  series: [{ name: "", values: [["win", 0.46, 0.41, 0.51], ["tie", 0.24, 0.2, 0.28],
    ["loss", 0.3, 0.25, 0.35]] }],
});
chart($("#g-stack"), {
  kind: "stack", title: "Strength of preferences", x: "batch",
  series: [
    { name: "significantly", values: [[1, 12], [2, 15], [3, 19]] },
    { name: "better", values: [[1, 20], [2, 18], [3, 21]] },
    { name: "slightly", values: [[1, 14], [2, 16], [3, 11]] },
    { name: "negligibly", values: [[1, 6], [2, 4], [3, 5]] },
  ],
});

$("#g-toast").addEventListener("click", () => toast("Saved. 31 of 50.", "good"));
$("#g-fault").addEventListener("click", () => toast("The server cannot be reached.", "bad"));
$("#g-ask").addEventListener("click", async () => {
  const meant = await confirm("Delete this conversation? It cannot be brought back.",
    { yes: "Delete", danger: true });
  said.value = meant ? "deleted" : "kept";
});
$("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    said.value = (await api("GET", "/api/me")).name;
    kept.clear();
  } catch (error) {
    toast(error.message, "bad");
  }
});

let place = 0;
keys({
  "j": [() => { said.value = `item ${++place}`; }, "Next"],
  "k": [() => { said.value = `item ${--place}`; }, "Back"],
  "mod+Enter": [() => $("form").requestSubmit(), "Submit"],
  "Escape": () => { said.value = "escaped"; },
}, { title: "Gallery" });
