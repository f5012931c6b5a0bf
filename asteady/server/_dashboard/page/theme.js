// Before the page is drawn, so that it does not flash in the other colours.
"use strict";
try {
  const chosen = localStorage.getItem("asteady-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // Storage is switched off: the system's choice holds.
}
