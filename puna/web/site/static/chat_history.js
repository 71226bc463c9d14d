// The list of conversations: newest first, searched, renamed, deleted and brought back.

import { $, ago, api, dialog, el, toast } from "./puna.js";

/** The list; `here()` is the number of the conversation that is shown. */
export function history({ here, open, gone }) {
  const list = $("#list");
  const search = $("#search");
  let before = null;
  let asked = 0;

  const line = (one) => el("li", {}, el("a", { href: `/chat/${one.id}`, title: one.title,
    "aria-current": one.id === here() ? "page" : null, data: { id: one.id },
    on: { click: (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
      event.preventDefault();
      panel(false);
      open(one.id);
    } } },
  el("bdi", { text: one.title }),
  el("small", { text: `${ago(Date.now() / 1000 - one.changed)}` })));

  async function load(older = false) {
    asked += 1;
    const mine = asked;
    const body = { words: search.value };
    if (older && before) body.before = before;
    let found;
    try {
      found = await api("POST", "/api/chat/history", body);
    } catch (error) {
      if (mine === asked) toast(error.message, "bad");
      return;
    }
    if (mine !== asked) return;
    const lines = found.conversations.map(line);
    if (older) list.append(...lines);
    else list.replaceChildren(...lines);
    if (!list.children.length) {
      const text = search.value ? "Nothing holds these words." : "No conversations yet.";
      list.append(el("li", { class: "muted small", text }));
    }
    before = found.before;
    $("#more").hidden = before === null;
  }

  let waiting = 0;
  search.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(load, 200);
  });
  $("#more").addEventListener("click", () => load(true));

  const panel = (shown) => {
    $("#history").classList.toggle("open", shown);
    $("#open-history").setAttribute("aria-expanded", String(shown));
  };
  $("#open-history").addEventListener("click", () => panel(!$("#history").classList.contains("open")));
  $("[data-close=history]").addEventListener("click", () => panel(false));

  async function rename(record, renamed) {
    const field = el("input", { value: record.title, maxlength: 200, id: "new-title" });
    const error = el("p", { class: "error", role: "alert" });
    const send = async (event) => {
      event.preventDefault();
      try {
        const body = { title: field.value };
        renamed(await api("PUT", `/api/chat/conversations/${record.id}`, body));
        shown.close();
        load();
      } catch (failure) {
        error.textContent = failure.message;
      }
    };
    const shown = el("dialog", { "aria-labelledby": "rename-title" },
      el("form", { class: "stack", on: { submit: send } },
        el("h2", { id: "rename-title", text: "Rename the conversation" }),
        el("div", { class: "field" }, el("label", { for: "new-title", text: "Title" }), field, error),
        el("div", { class: "row end" },
          el("button", { type: "button", text: "Cancel", on: { click: () => shown.close() } }),
          el("button", { class: "primary", text: "Rename" }))));
    field.select();
    await dialog(shown);
  }

  async function remove(record) {
    await api("DELETE", `/api/chat/conversations/${record.id}`, {});
    gone();
    load();
    const said = toast("Deleted.", "good");
    said.append(el("button", { type: "button", text: "Undo", on: { click: async () => {
      said.remove();
      await api("POST", `/api/chat/conversations/${record.id}/restore`, {});
      load();
      open(record.id);
    } } }));
  }

  const file = $("#file");
  $("#import").addEventListener("click", () => file.click());
  file.addEventListener("change", async () => {
    const [chosen] = file.files;
    file.value = "";
    if (!chosen) return;
    try {
      const read = JSON.parse(await chosen.text());
      const { conversations } = await api("POST", "/api/chat/import", read);
      toast(`Imported: ${conversations.length}.`, "good");
      await load();
      open(conversations.at(-1));
    } catch (error) {
      toast(error instanceof SyntaxError ? "This file is not JSON." : error.message, "bad");
    }
  });

  return { load, rename, remove };
}
