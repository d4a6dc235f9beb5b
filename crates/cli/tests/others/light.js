// How bright a colour is and what is behind an element (WCAG 2.2, relative luminance); the other checks begin with this.
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
const contrast = (color, background) => {
  const [dim, bright] = [light(color), light(background)].sort((a, b) => a - b);
  return (bright + 0.05) / (dim + 0.05);
};
