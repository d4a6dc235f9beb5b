// The approval page: asks for a passkey where one is needed, and keeps what is shown up to date. Everything else on it
// works without this.

const page = document.body.dataset;
const byId = (id) => document.getElementById(id);

const from = (text) =>
  Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (letter) => letter.charCodeAt(0));
const into = (buffer) =>
  btoa(String.fromCharCode(...new Uint8Array(buffer))).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");

function say(text) {
  byId("live").textContent = text;
}

// What the gateway wants to have signed or made.
async function ask(path, fields) {
  const body = new URLSearchParams({ form: page.form, ...fields });
  const answer = await fetch(`${page.base}/${path}`, { method: "POST", body, credentials: "same-origin" });
  const told = await answer.json();
  if (!answer.ok) {
    const error = new Error(told.message ?? told.error?.untrusted_text ?? told.error?.message);
    throw Object.assign(error, { outdated: answer.status === 409 });
  }
  return told;
}

async function signed({ challenge, rp_id, credentials }) {
  const allowCredentials = credentials.map((id) => ({ type: "public-key", id: from(id) }));
  const publicKey = { challenge: from(challenge), rpId: rp_id, userVerification: "required", allowCredentials };
  const { rawId, response } = await navigator.credentials.get({ publicKey });
  return JSON.stringify({
    credential_id: into(rawId),
    authenticator_data: into(response.authenticatorData),
    client_data_json: into(response.clientDataJSON),
    signature: into(response.signature),
  });
}

async function made({ challenge, rp_id, approver, user_handle, known }) {
  const publicKey = {
    challenge: from(challenge),
    rp: { id: rp_id, name: "Countersign" },
    user: { id: from(user_handle), name: approver, displayName: approver },
    pubKeyCredParams: [{ type: "public-key", alg: -7 }],
    excludeCredentials: known.map((id) => ({ type: "public-key", id: from(id) })),
    authenticatorSelection: { userVerification: "required", residentKey: "preferred" },
    attestation: "none",
  };
  const { response } = await navigator.credentials.create({ publicKey });
  return JSON.stringify({
    attestation_object: into(response.attestationObject),
    client_data_json: into(response.clientDataJSON),
  });
}

// What each button that needs a passkey does to its form before it is sent.
const deeds = {
  async approve(form) {
    const said = ["comment", "max_amount", "not_after", "applies_to"].filter((name) => form.elements[name]);
    const fields = Object.fromEntries(said.map((name) => [name, form.elements[name].value]));
    form.elements.assertion.value = await signed(await ask(`${page.action}/envelope`, fields));
    // What is said beside the yes stands in what was signed.
    for (const name of said) form.elements[name].disabled = true;
    form.action = `${page.base}/${page.action}/approve`;
  },
  async login(form) {
    form.elements.assertion.value = await signed(await ask("greeting", {}));
  },
  async register(form) {
    form.elements.enrolment.value = await made(await ask("passkeys/new", {}));
  },
};

async function act(button) {
  const { form } = button;
  if (form.dataset.sent) return;
  form.dataset.sent = "yes";
  say("Your browser asks for your passkey.");
  try {
    await deeds[button.dataset.passkey](form);
    form.submit();
  } catch (error) {
    delete form.dataset.sent;
    say(error.name === "NotAllowedError" ? "Nothing was signed." : error.message);
    if (error.outdated && byId("decision")) outdate();
    else button.focus();
  }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-passkey]");
  if (button) act(button);
});

// Once is enough.
document.addEventListener("submit", (event) => {
  if (event.target.dataset.sent) event.preventDefault();
  event.target.dataset.sent = "yes";
});

// A page that comes back from the browser's memory may be sent again.
addEventListener("pageshow", () => {
  for (const form of document.forms) delete form.dataset.sent;
});

// Shows what needs scripts, and where passkeys can be asked for: nowhere but on the one origin they are for.
function reveal() {
  const here = Boolean(globalThis.PublicKeyCredential) && location.origin === page.origin;
  for (const button of document.querySelectorAll("[data-passkey]")) button.hidden = !here;
  for (const note of document.querySelectorAll("[data-elsewhere]")) note.hidden = here;
}

// What was shown is not what would be agreed to any more.
function outdate() {
  byId("changed").hidden = false;
  for (const button of byId("decision").querySelectorAll("[data-approves]")) button.disabled = true;
}

// What is shown is read anew. Whoever is about to decide is told, and nothing is moved under their hands.
async function changed(version) {
  if (byId("decision")) {
    // Who was told already why does not hear it in fewer words.
    if (byId("changed").hidden) say("This action has changed since you opened it. Look again before you decide.");
    outdate();
    return;
  }
  const answer = await fetch(location.href, { credentials: "same-origin" });
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  const focused = document.activeElement?.getAttribute("href");
  byId("content").replaceWith(document.adoptNode(fresh.getElementById("content")));
  page.version = version;
  if (focused) document.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
  reveal();
  say(byId("content").dataset.said);
}

function watch() {
  const news = new EventSource(page.watch);
  news.addEventListener("change", (event) => changed(event.data));
  news.addEventListener("error", () => {
    if (news.readyState === EventSource.CLOSED) say("This page no longer hears of changes. Load it again.");
  });
}

reveal();
if (page.watch) watch();
