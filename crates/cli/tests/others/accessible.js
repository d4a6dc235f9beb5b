// What a person who cannot see the page, or cannot use a mouse, would miss. Said in one line each.
const missing = [];
const shown = (element) => element.checkVisibility();
if (!document.documentElement.lang) missing.push("no language");
if (!document.title) missing.push("no title");
if (document.querySelectorAll("main").length !== 1) missing.push("not one main part");
if (!document.querySelector("[role=status][aria-live=polite], [role=alert]")) missing.push("no live region");
for (const field of document.querySelectorAll("input:not([type=hidden]), textarea, select")) {
  if (!field.labels?.length) missing.push(`no label: ${field.name || field.id}`);
}
for (const control of document.querySelectorAll("a, button")) {
  if (shown(control) && !(control.innerText.trim() || control.ariaLabel)) missing.push(`no name: ${control.outerHTML}`);
  if (control.tabIndex < 0) missing.push(`not reached by keyboard: ${control.innerText}`);
}
let level = 0;
for (const heading of document.querySelectorAll("h1, h2, h3, h4, h5, h6")) {
  const next = Number(heading.tagName[1]);
  if (next > level + 1) missing.push(`h${level} is followed by ${heading.outerHTML}`);
  level = next;
}
if (document.querySelectorAll("h1").length !== 1) missing.push("not one h1");
const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
if (new Set(ids).size !== ids.length) missing.push("an id stands twice");
for (const element of document.querySelectorAll("[aria-describedby]")) {
  if (!document.getElementById(element.getAttribute("aria-describedby"))) missing.push("described by nothing");
}
for (const cell of document.querySelectorAll("th")) if (!cell.scope) missing.push(`a column without scope: ${cell.innerText}`);

// The edges of fields and buttons against what is behind them: 3 to 1 (WCAG 2.2, 1.4.11).
for (const control of document.querySelectorAll("main input:not([type=hidden])")) {
  const found = contrast(getComputedStyle(control).borderTopColor, behind(control.parentElement));
  if (found < 3) missing.push(`edge of ${control.id}: ${found.toFixed(2)}`);
}
return missing;
