// Speaking with the server.

import { logIn } from "./login.js";

const RETRIES = 2;
const PATIENCE = 8; // seconds that a call waits for a server that is busy
const away = "The server cannot be reached. What you typed is still here; try again in a moment.";

/** What went wrong: status (0: no answer came), message, param (the field), code, retryAfter. */
export class ApiError extends Error {
  constructor(status, message, { param = null, code = null, retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { name: "ApiError", status, param, code, retryAfter });
  }
}

/** The token that shows that a request comes from our page. */
const csrf = () => document.documentElement.dataset.csrf ?? "";

const sleep = (seconds, signal) => new Promise((resolve, reject) => {
  const stop = () => {
    clearTimeout(timer);
    reject(signal.reason);
  };
  const timer = setTimeout(() => {
    signal?.removeEventListener("abort", stop);
    resolve();
  }, seconds * 1000);
  signal?.addEventListener("abort", stop, { once: true });
});

async function failure(response) {
  let told = null;
  try {
    told = (await response.json()).error;
  } catch {
    // Something between us and the server answered.
  }
  const seconds = Number.parseFloat(response.headers.get("retry-after"));
  const retryAfter = Number.isFinite(seconds) ? seconds : null;
  const busy = { 413: "This is too long.", 429: "Too many requests at once.",
    502: away, 503: "The server is busy.", 504: away };
  let message = told?.message ?? busy[response.status]
    ?? `The server answered with an error (${response.status}).`;
  if (response.status === 429 && retryAfter) {
    message += ` Try again in ${Math.ceil(retryAfter)} s.`;
  }
  return new ApiError(response.status, message, { ...told, retryAfter });
}

async function once(method, path, body, { key, signal, accept = "application/json" } = {}) {
  const headers = { accept };
  if (method !== "GET") headers["x-csrf"] = csrf();
  if (body !== undefined) headers["content-type"] = "application/json";
  if (key) headers["idempotency-key"] = key;
  let response;
  try {
    response = await fetch(path, {
      method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "same-origin", redirect: "error",
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, away, { code: "network" });
  }
  if (response.ok) return response;
  throw await failure(response);
}

/** One answer, after logging in again or waiting where that helps. */
async function answered(method, path, body, options = {}) {
  const again = method === "GET" || Boolean(options.key); // sent twice it counts once
  for (let tries = 0; ; tries += 1) {
    try {
      return await once(method, path, body, options);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (error.status === 401 && path !== "/api/login" && tries < RETRIES) {
        if (!(await logIn())) throw error;
        continue;
      }
      const wait = error.retryAfter ?? 0.4 * 2 ** tries;
      const passing = error.status === 0 || error.status === 429 || error.status === 503;
      if (!again || !passing || tries >= RETRIES || wait > PATIENCE) throw error;
      await sleep(wait, options.signal);
    }
  }
}

/**
 * Ask the server. A GET, or what has an idempotency `key`, is tried again if no answer came.
 * -> its JSON; ApiError; AbortError if `signal` says so
 */
export async function api(method, path, body, { key, signal } = {}) {
  const response = await answered(method, path, body, { key, signal });
  if (response.status === 204) return null;
  try {
    return await response.json();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(0, away, { code: "network" });
  }
}

/**
 * POST, and hear the events of the answer one by one as they come: onEvent(data).
 * Resolves at [DONE]; an event {"error"} and a connection that breaks are an ApiError.
 */
export async function stream(path, body, onEvent, signal) {
  const response = await answered("POST", path, body, { signal, accept: "text/event-stream" });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const events = (rest + value).split(/\r?\n\r?\n/);
      rest = events.pop();
      for (const event of events) if (told(event, onEvent)) return;
    }
  } catch (error) {
    if (signal?.aborted || error instanceof ApiError || !(error instanceof TypeError)) throw error;
  } finally {
    reader.cancel().catch(() => {});
  }
  throw new ApiError(0, "The answer broke off: the connection was lost.", { code: "network" });
}

/** Pass one event on. -> whether it was the last */
function told(event, onEvent) {
  const data = event.split(/\r?\n/).filter((line) => line.startsWith("data:"))
    .map((line) => line.slice(5).replace(/^ /, "")).join("\n");
  if (!data) return false;
  if (data === "[DONE]") return true;
  const parsed = JSON.parse(data);
  if (parsed?.error) throw new ApiError(parsed.error.status ?? 500, parsed.error.message, parsed.error);
  onEvent(parsed);
  return false;
}
