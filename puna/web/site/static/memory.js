// What the browser keeps: settings, and text that was typed and not sent.

const PREFIX = "puna.";

/** Keep a value over reloads. False: the browser keeps nothing. */
export function remember(name, value) {
  try {
    localStorage.setItem(PREFIX + name, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

/** What was kept under this name, or `otherwise`. */
export function recall(name, otherwise = null) {
  try {
    const kept = localStorage.getItem(PREFIX + name);
    return kept === null ? otherwise : JSON.parse(kept);
  } catch {
    return otherwise;
  }
}

/** Keep nothing under this name; with a `*` at its end, under no name that begins so. */
export function forget(name) {
  try {
    if (!name.endsWith("*")) return localStorage.removeItem(PREFIX + name);
    const start = PREFIX + name.slice(0, -1);
    Object.keys(localStorage).filter((key) => key.startsWith(start)).forEach((key) =>
      localStorage.removeItem(key));
  } catch {
    // Nothing was kept.
  }
}

/** A name that nothing else has, for idempotency keys. */
export function uuid() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The name under which this viewer's drafts are kept; logging out forgets them. */
export function drafts() {
  return `draft.${document.documentElement.dataset.viewer || "0"}.`;
}

/**
 * Keep what is typed into a field until `clear()`; what was kept is put back if the field is empty.
 * -> {clear, save, restored: whether something was put back}
 */
export function draft(field, name) {
  const key = drafts() + name;
  const kept = recall(key, "");
  const restored = Boolean(kept) && !field.value;
  let waiting = 0;
  const save = () => {
    clearTimeout(waiting);
    waiting = 0;
    if (field.value) remember(key, field.value);
    else forget(key);
  };
  const later = () => {
    clearTimeout(waiting);
    waiting = setTimeout(save, 250);
  };
  const leaving = () => waiting && save();
  field.addEventListener("input", later);
  addEventListener("pagehide", leaving);
  addEventListener("visibilitychange", leaving);
  if (restored) {
    field.value = kept;
    field.dispatchEvent(new Event("input", { bubbles: true }));
  }
  const clear = () => {
    clearTimeout(waiting);
    waiting = 0;
    forget(key);
  };
  return { clear, save, restored };
}
