// The receipt page: verifies what stands in its text area, and says so where everybody sees it. Stands below
// verify/countersign.mjs in one module.

const byId = (id) => document.getElementById(id);
const banner = byId("verdict");
const field = byId("document");
const original = field.value;
const { issuer, keys, log } = document.body.dataset;
let jwks = JSON.parse(byId("jwks").textContent);
let source = "the key set that came with this page";

async function show() {
  if (!globalThis.crypto?.subtle) {
    say("pending", "Cannot verify here", "Browsers offer cryptography over https and on localhost only.");
    return;
  }
  const changed = field.value !== original;
  say("pending", "Verifying…", "");
  const report = await checked(field.value);
  const sandbox = report.receipt?.metadata.environment === "sandbox";
  const what = changed ? "The document below" : "This receipt";
  if (report.verdict !== "valid") {
    const sentence = changed ? `${what}: ${report.sentence}` : report.sentence;
    say("bad", report.verdict === "invalid" ? "Does not verify" : capital(report.verdict), sentence);
  } else if (sandbox) {
    say("warn", "Verified, in the sandbox", `${what} is intact; nothing happened in the world.`);
  } else {
    say("good", "Verified", `${what} is intact and was signed by ${issuer}.`);
  }
  byId("checks").replaceChildren(...report.checks.map(line));
  mark(changed ? null : report.place.entry);
  byId("source").textContent = `Checked in this browser with ${source}: ${await jwksDigest(jwks)}`;
}

// A bundle is held to the key set and the log that this page knows of, a receipt to the key set.
async function checked(text) {
  if (!isBundle(text)) return verify(text, jwks, { issuer, allowSandbox: true });
  const pin = { issuer, jwks: [await jwksDigest(jwks)], logs: log ? [log] : [] };
  return verifyBundle(text, JSON.stringify(pin), { allowSandbox: true });
}

function say(mood, headline, sentence) {
  banner.className = `verdict ${mood}`;
  banner.dataset.verdict = mood;
  byId("headline").textContent = headline;
  byId("sentence").textContent = sentence;
}

function line({ name, outcome, detail }) {
  const item = document.createElement("li");
  item.className = outcome;
  const strong = document.createElement("b");
  strong.textContent = name;
  item.append(strong, ` ${detail}`);
  return item;
}

function mark(entry) {
  for (const row of document.querySelectorAll("tbody tr")) {
    row.classList.toggle("bad", row.dataset.entry === String(entry));
  }
}

const capital = (text) => text[0].toUpperCase() + text.slice(1);

// A page that was saved or left open asks for the key set of today: a key may have been lost since.
async function refresh() {
  try {
    const response = await fetch(keys, { cache: "no-store", credentials: "omit" });
    if (response.ok) {
      jwks = await response.json();
      source = "the key set published now";
    }
  } catch {
    // Without a network the page's own key set stands.
  }
}

// The verdict stands far above the text area: whoever asked for it there is taken to it.
async function answer() {
  await show();
  banner.scrollIntoView({ block: "nearest" });
}

async function take(file) {
  if (!file) return;
  field.value = await file.text();
  await answer();
}

byId("check").addEventListener("click", answer);
byId("reset").addEventListener("click", () => {
  field.value = original;
  answer();
});
byId("file").addEventListener("change", (event) => take(event.target.files[0]));
field.addEventListener("dragover", (event) => event.preventDefault());
field.addEventListener("drop", (event) => {
  if (event.dataTransfer.files.length === 0) return;
  event.preventDefault();
  take(event.dataTransfer.files[0]);
});
byId("workbench").hidden = false;
await refresh();
await show();
