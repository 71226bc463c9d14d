// Numbers and times in words.

const NONE = "–";
const plain = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
const UNITS = [["year", 31557600], ["month", 2629800], ["day", 86400], ["hour", 3600], ["minute", 60]];

const missing = (x) => x === null || x === undefined || Number.isNaN(Number(x));

/** 12,345.68; `digits` fixes those after the point. */
export function number(x, digits) {
  if (missing(x)) return NONE;
  if (digits === undefined) return plain.format(x);
  return new Intl.NumberFormat("en", {
    minimumFractionDigits: digits, maximumFractionDigits: digits,
  }).format(x);
}

/** 0.1234 -> 12.3 % */
export function percent(x, digits = 1) {
  return missing(x) ? NONE : `${number(x * 100, digits)}\u00a0%`;
}

/** "5 minutes ago", of a time in seconds since 1970, or of so many seconds. */
export function ago(seconds) {
  if (missing(seconds)) return NONE;
  const passed = seconds > 1e8 ? Date.now() / 1000 - seconds : seconds;
  const [unit, size] = UNITS.find(([, size]) => Math.abs(passed) >= size) ?? [];
  if (!unit) return passed < -1 ? "in a moment" : "just now";
  const count = Math.floor(Math.abs(passed) / size);
  const words = `${count} ${unit}${count === 1 ? "" : "s"}`;
  return passed < 0 ? `in ${words}` : `${words} ago`;
}

/** 42 -> 42 s, 95 -> 1 min 35 s, 7300 -> 2 h 1 min */
export function duration(seconds) {
  if (missing(seconds)) return NONE;
  if (seconds < 10) return `${number(seconds, 1)}\u00a0s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole}\u00a0s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}\u00a0min ${whole % 60}\u00a0s`;
  return `${Math.floor(whole / 3600)}\u00a0h ${Math.floor((whole % 3600) / 60)}\u00a0min`;
}
