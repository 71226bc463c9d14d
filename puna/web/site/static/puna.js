// What every page uses, under one name. Importing it also brings the frame to life.

export { chart } from "./chart.js";
export { $, $$, confirm, dialog, el, glyph, html, toast } from "./dom.js";
export { keys } from "./keys.js";
export { draft, forget, recall, remember, uuid } from "./memory.js";
export { api, ApiError, stream } from "./net.js";
export { ago, duration, number, percent } from "./words.js";
import "./frame.js";
