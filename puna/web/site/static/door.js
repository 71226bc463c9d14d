// Coming in: by name and password, or by a link.

import { $, $$, api } from "./puna.js";

const login = $("#login");
const welcome = $("#welcome");

const WORDS = {
  setup: ["Set up this server", "You become its first admin: you invite the others."],
  invite: ["Welcome", "Choose a name and a password, and you are in."],
  reset: ["A new password", "Your other sessions end."],
};
const ROLES = {
  annotator: "You will be an annotator: you talk with models and judge their answers.",
  reviewer: "You will be a reviewer: you judge answers, and the judgements of others.",
  admin: "You will be an admin: you may do everything here, and invite people.",
};

/** Send a form; faults stand beside their field. -> whether it worked */
async function sent(form, path, body) {
  const button = $("button.primary", form);
  for (const place of $$(".error", form)) place.textContent = "";
  for (const input of $$("[aria-invalid]", form)) input.removeAttribute("aria-invalid");
  button.setAttribute("aria-busy", "true");
  button.disabled = true;
  try {
    await api("POST", path, body);
    return true;
  } catch (error) {
    const place = error.param && $(`#${CSS.escape(error.param)}-fault`, form);
    (place || $("#fault", form)).textContent = error.message.replace(`${error.param}: `, "");
    const input = form.elements[place ? error.param : "password"];
    if (place) input.setAttribute("aria-invalid", "true");
    input.select();
    return false;
  } finally {
    button.removeAttribute("aria-busy");
    button.disabled = false;
  }
}

login?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const { name, password } = login.elements;
  if (!name.value.trim()) return name.focus();
  if (!password.value) return password.focus();
  const body = { name: name.value, password: password.value };
  if (await sent(login, "/api/login", body)) {
    if (location.pathname === "/login") location.replace("/");
    else location.reload(); // the page that was asked for
  }
});

if (welcome) open(taken());

/** The token behind the #, which then stands in no address and no history. */
function taken() {
  const token = decodeURIComponent(location.hash.slice(1));
  history.replaceState(null, "", location.pathname);
  return token;
}

async function open(token) {
  let link;
  try {
    if (!token) throw new Error("This page is opened by a link. Open yours again, the whole of it.");
    link = await api("POST", "/api/welcome/look", { token });
  } catch (error) {
    $("#looking").hidden = true;
    $("#useless").hidden = false;
    if (error.status !== 404) $("#why").textContent = error.message;
    return;
  }
  if (link.purpose === "single") {
    if (await sent(welcome, "/api/welcome", { token })) return location.replace("/");
    $("#looking").textContent = $("#fault").textContent;
    return;
  }
  show(link);
  welcome.addEventListener("submit", async (event) => {
    event.preventDefault();
    const { name, password } = welcome.elements;
    if (await sent(welcome, "/api/welcome", { token, name: name.value, password: password.value })) {
      location.replace("/");
    }
  });
}

function show(link) {
  const [title, told] = WORDS[link.purpose];
  $("#title").textContent = title;
  $("#told").textContent = link.purpose === "invite" ? `${ROLES[link.role]} ${told}` : told;
  const { name, password, show: shown } = welcome.elements;
  if (link.name) {
    name.value = link.name;
    name.readOnly = true;
    $("#name-hint").hidden = true;
  }
  shown.addEventListener("change", () => {
    password.type = shown.checked ? "text" : "password";
  });
  $("#looking").hidden = true;
  welcome.hidden = false;
  (link.name ? password : name).focus();
}
