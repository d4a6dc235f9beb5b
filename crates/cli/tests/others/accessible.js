// What a person who cannot see the page, or cannot use a mouse, would miss. Said in one line each.
(() => {
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
  const channels = (color) => (color.match(/[\d.]+/g) ?? []).map(Number);
  const light = (color) => {
    const [r, g, b] = channels(color).map((channel) => {
      const share = channel / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const { backgroundColor } = getComputedStyle(at);
      if (channels(backgroundColor)[3] !== 0) return backgroundColor;
    }
    return "rgb(255, 255, 255)";
  };
  for (const control of document.querySelectorAll("main input:not([type=hidden])")) {
    const [dim, bright] = [light(getComputedStyle(control).borderTopColor), light(behind(control.parentElement))].sort((a, b) => a - b);
    const contrast = (bright + 0.05) / (dim + 0.05);
    if (contrast < 3) missing.push(`edge of ${control.id}: ${contrast.toFixed(2)}`);
  }
  return missing;
})()
