// The theme that was chosen, before anything is painted: not a module, so that the page waits for it.
try {
  const theme = JSON.parse(localStorage.getItem("puna.theme"));
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Without a store the system's theme holds.
}
