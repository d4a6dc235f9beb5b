// What a reader could not read: texts whose contrast with what is behind them is under 4.5 (WCAG 2.2, 1.4.3).
const poor = [];
for (const element of document.body.querySelectorAll("*")) {
  const speaks = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim() !== "");
  if (!speaks || !element.checkVisibility()) continue;
  const found = contrast(getComputedStyle(element).color, behind(element));
  if (found < 4.5) poor.push(`${found.toFixed(2)}: ${element.textContent.trim().slice(0, 40)}`);
}
return poor;
