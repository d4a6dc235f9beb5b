// Verifies receipts, and bundles of a receipt with all that proves it was logged, where they are read: no library, no network,
// nothing believed that was not checked. Runs in browsers and in Node (20 or later).
//
// `verifyBundle(text, pin, options)` takes a bundle (`countersign receipts export`) and a pin (`countersign keys pin --log`), as texts,
// and believes nothing else. Where the pin does not name the bundle's own key set, `options.jwks`, the text of one that it does name,
// is taken instead. `isBundle(text)` tells a bundle from a receipt.
//
// `verify(text, jwks, options)` takes the document as received and makes the same checks in the same order as the
// `receipt` crate, but for the signatures of people who approved: whose keys those are a page cannot know, so
// `countersign verify --approvers` checks them. The report:
//
//   { verdict: "valid" | "quarantined" | "time unproven" | "invalid",
//     sentence, place: { entry, stage } | { member } | {}, checks: [{ name, outcome, detail }], receipt }

export async function verify(text, jwks, { issuer = null, allowSandbox = false } = {}) {
  return judged(text, jwks, { issuer, allowSandbox });
}

// With `pin` and `proof` it must be in a log that the pin names, cosigned by as many witnesses as the pin demands.
async function judged(text, jwks, { issuer, allowSandbox, pin = null, proof = null }) {
  const table = new Table();
  let receipt;
  try {
    receipt = parse(text);
    checkDocument(receipt);
  } catch (failure) {
    if (!(failure instanceof Failure)) throw failure;
    return table.unreadable(failure);
  }
  table.passed("structure", "every member of the format and no other");
  await table.add("entries", "every entry has the hash it says", () => entriesHold(receipt.entries));
  await table.add("chain", "every entry follows the one before it", () => chainHolds(receipt));
  await table.add("created", "time of the last entry, which is signed", () => createdHolds(receipt));
  if (issuer === null) table.skipped("issuer", "no issuer to compare with");
  else await table.add("issuer", issuer, () => issuerHolds(receipt, issuer));

  let key = null;
  let signature = null;
  await table.add("key", "in the key set, under its own thumbprint", async () => {
    key = await keyOf(receipt, jwks);
  });
  await table.add("encoding", "base64url, low S", () => {
    signature = signatureOf(receipt);
  });
  if (key && signature) {
    await table.add("signature", "fits the document", () => signatureHolds(receipt, key, signature));
  } else {
    table.skipped("signature", "no key or no signature to check");
  }
  if (key) {
    await table.add("window", "the key was in use at the time", () => windowHolds(receipt, key));
  } else {
    table.skipped("window", "no key to check");
  }
  for (const index of receipt.metadata.approvals.keys()) {
    const detail = `number ${index} fits this receipt; its signature is not checked here`;
    await table.add("approval", detail, () => approvalFits(receipt, index), "skipped");
  }
  let logged = null;
  if (pin) {
    const detail = ({ index, size, origin, witnessed }) =>
      `leaf ${index} of ${size} in \`${origin}\`, cosigned by ${witnessed.length} of the witnesses pinned`;
    await table.add("inclusion", () => detail(logged), async () => {
      logged = await shows(proof, receipt, pin);
    });
  }
  return table.report(receipt, key, allowSandbox, logged);
}

// A bundle, with nothing but a pin.
export async function verifyBundle(text, pin, { allowSandbox = false, jwks = null } = {}) {
  let pinned, bundle, keys;
  try {
    pinned = await readPin(pin);
    bundle = readBundle(text);
    const offered = [bundle.jwks, ...(jwks === null ? [] : [new Reader(jwks).whole()])];
    for (const one of offered) await checkKeySet(one);
    const digests = await Promise.all(offered.map(jwksDigest));
    keys = offered[digests.findIndex((digest) => pinned.jwks.includes(digest))];
    if (!keys) throw Failure.document("the key set of the bundle is not one that the pin names");
  } catch (failure) {
    if (!(failure instanceof Failure)) throw failure;
    return new Table().unreadable(failure);
  }
  const options = { issuer: pinned.issuer, allowSandbox, pin: pinned, proof: bundle.proof };
  return judged(canonical(bundle.receipt), keys, options);
}

// Is this the text of a bundle, rather than of a receipt?
export function isBundle(text) {
  try {
    return JSON.parse(text)?.spec === BUNDLE;
  } catch {
    return false;
  }
}

// ---- The checks ----

async function entriesHold(entries) {
  for (const [index, entry] of entries.entries()) {
    const { hash, ...hashed } = entry;
    if ((await sha256Hex(canonical(hashed))) !== hash) {
      throw Failure.entry(index, entry.stage, "content does not fit its hash");
    }
  }
}

function chainHolds(receipt) {
  const entries = receipt.entries;
  let last = null;
  for (const [index, entry] of entries.entries()) {
    const broken = (why) => Failure.entry(index, entry.stage, why);
    const rank = STAGES.indexOf(entry.stage);
    if (entry.previousHash !== (last ? last.hash : NO_HASH)) {
      throw broken("`previousHash` is not the hash of the entry before");
    }
    if (last ? STAGES.indexOf(last.stage) >= rank : rank !== 0) throw broken("stage is out of order");
    if (last && last.metadata.at > entry.metadata.at) throw broken("time is before that of the entry before");
    last = entry;
  }
  if (last === null || last.stage !== "receipt") {
    throw Failure.entry(entries.length, null, "the entry `receipt` is missing");
  }
  const whole = receipt.metadata.kind === "executed" && receipt.eventType === "ORIGINAL";
  if (whole && entries.length !== STAGES.length) {
    throw Failure.member("entries", "are not all nine, though the action was executed");
  }
}

function createdHolds(receipt) {
  if (receipt.entries.at(-1).metadata.at !== receipt.created) {
    throw Failure.member("created", "is not the time of the last entry");
  }
}

function issuerHolds(receipt, issuer) {
  const named = receipt.metadata.issuer;
  if (named !== issuer) throw Failure.member("metadata.issuer", `is \`${named}\`, not \`${issuer}\``);
}

async function keyOf(receipt, jwks) {
  const kid = receipt.signature.kid;
  const key = (jwks.keys ?? []).find((candidate) => candidate.kid === kid);
  if (!key) throw Failure.member("signature.kid", `key \`${kid}\` is not in the key set`);
  const { crv, kty, x, y } = key;
  if (crv !== "P-256" || kty !== "EC") throw Failure.member("signature.kid", "the key is not a P-256 key");
  const thumbprint = base64url(await sha256(canonical({ crv, kty, x, y })));
  if (thumbprint !== kid) throw Failure.member("signature.kid", `the key's thumbprint is \`${thumbprint}\``);
  if (!timesHold(key)) throw Failure.member("signature.kid", "the key's status and times do not agree");
  return key;
}

function timesHold({ ep_active_from: from, ep_active_through: through, ep_compromised_at: compromised, ep_status }) {
  const status = compromised ? "compromised" : through ? "verify-only" : "active";
  const timed = isTime(from) && [through, compromised].every(isTimeOrNothing);
  return ep_status === status && timed && !(through && through < from);
}

function signatureOf(receipt) {
  const bytes = fromBase64url(receipt.signature.value);
  if (!bytes || bytes.length !== 64) {
    throw Failure.member("signature.value", "is not unpadded base64url of 64 bytes");
  }
  const s = bytes.slice(32).reduce((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
  if (s > HALF_ORDER) throw Failure.member("signature.value", "has a high S");
  return bytes;
}

async function signatureHolds(receipt, key, signature) {
  const { created, signature: { value, ...named }, ...rest } = receipt;
  const signed = encode(canonical({ ...rest, signature: named }));
  const { crv, kty, x, y } = key;
  const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
  let fits = false;
  try {
    const imported = await crypto.subtle.importKey("jwk", { crv, kty, x, y }, algorithm, false, ["verify"]);
    fits = await crypto.subtle.verify(algorithm, imported, signature, signed);
  } catch {
    throw Failure.member("signature.kid", "the key is not a point on the curve");
  }
  if (!fits) {
    throw Failure.member("signature.value", "does not fit: a signed member or the signature was changed");
  }
}

function windowHolds(receipt, key) {
  const { created } = receipt;
  const { ep_active_from: from, ep_active_through: through, ep_compromised_at: lostAt } = key;
  if (created < from) throw Failure.member("created", `is before the key's first use at ${from}`);
  // What a lost key signs is quarantined, however late it is.
  const lost = lostAt && created >= lostAt;
  if (through && created > through && !lost) {
    throw Failure.member("created", `is after the key's last use at ${through}`);
  }
}

// Everything that the envelope and the receipt both say, they say alike.
function approvalFits(receipt, index) {
  const { approvals, kind } = receipt.metadata;
  const { at, envelope } = approvals[index];
  const { offerAmount: amount, offerCurrency: currency } = receipt.money;
  const must = (holds, why) => {
    if (!holds) throw Failure.member(`metadata.approvals[${index}]`, why);
  };
  must(envelope.action_id === receipt.transactionId, `its envelope is of action \`${envelope.action_id}\`, not of this one`);
  for (const [stage, member, ofEnvelope] of [
    ["__genesis__", "requestHash", envelope.request_hash],
    ["schema", "catalogDigest", envelope.catalog_digest],
    ["schema", "constraints", envelope.constraints],
    ["boundary", "policyDigest", envelope.policy_digest],
  ]) {
    const entry = receipt.entries.find((candidate) => candidate.stage === stage);
    const said = (stage === "__genesis__" ? entry?.output : entry?.input)?.[member];
    const alike = said !== undefined && canonical(said) === canonical(ofEnvelope);
    must(alike, `its envelope has another \`${member}\` than the entry \`${stage}\``);
  }
  const priced = envelope.quote === null || canonical(envelope.quote) === canonical({ amount, currency });
  must(priced, "the price in its envelope is not the one offered");
  const most = envelope.decision === "approve" ? envelope.limits?.max_amount : undefined;
  const within = most === undefined || amount === null || (currency === most.currency && isAtMost(amount, most.amount));
  must(within, "the price offered is above what the person agreed to");
  must(envelope.decision === "approve" || kind === "blocked", "the person rejected the action");
  must(at < envelope.expires_at, `it was given after it had expired at ${envelope.expires_at}`);
  must(at <= receipt.created, "it is younger than the receipt");
  const again = (other) =>
    other.envelope.nonce === envelope.nonce ||
    (other.envelope.escalation_id === envelope.escalation_id &&
      other.credential_id === approvals[index].credential_id);
  const twin = approvals.slice(0, index).findIndex(again);
  must(twin < 0, `it counts no more than \`metadata.approvals[${twin}]\`: the same person, or the same nonce`);
}

// Of two decimal strings that are not negative.
function isAtMost(amount, most) {
  const scaled = (text, digits) => {
    const [whole, part = ""] = text.split(".");
    return BigInt(whole + part.padEnd(digits, "0"));
  };
  const digits = Math.max(...[amount, most].map((text) => text.split(".")[1]?.length ?? 0));
  return scaled(amount, digits) <= scaled(most, digits);
}

// ---- The report ----

class Table {
  checks = [];
  failure = null;

  // `otherwise` is the outcome where nothing is wrong: a check that goes only half way has not passed.
  async add(name, detail, check, otherwise = "passed") {
    try {
      await check();
      this.checks.push({ name, outcome: otherwise, detail: typeof detail === "function" ? detail() : detail });
    } catch (failure) {
      if (!(failure instanceof Failure)) throw failure;
      this.failed(name, failure.message);
      this.failure ??= failure;
    }
  }

  passed(name, detail) {
    this.checks.push({ name, outcome: "passed", detail });
  }

  failed(name, detail) {
    this.checks.push({ name, outcome: "failed", detail });
  }

  skipped(name, detail) {
    this.checks.push({ name, outcome: "skipped", detail });
  }

  unreadable(failure) {
    this.failed("structure", failure.message);
    for (const name of CHECKS.slice(1)) this.skipped(name, "the document could not be read");
    return { verdict: "invalid", sentence: failure.message, place: failure.place, checks: this.checks, receipt: null };
  }

  report(receipt, key, allowSandbox, logged) {
    const sandbox = receipt.metadata.environment === "sandbox" && !allowSandbox;
    if (sandbox) this.failed("environment", SANDBOX);
    else this.passed("environment", receipt.metadata.environment);
    const lostAt = key?.ep_compromised_at;
    const before = lostAt && receipt.created < lostAt ? loggedBefore(logged, key.kid, lostAt) : null;
    const custody = !lostAt || before
      ? null
      : receipt.created >= lostAt
        ? ["quarantined", `made after its key was compromised at ${lostAt}`]
        : ["time unproven", `its key was compromised at ${lostAt}, and nothing proves that it was made before`];
    if (!key) this.skipped("custody", "no key to check");
    else if (custody) this.failed("custody", custody[1]);
    else this.passed("custody", before ?? "the key is not known to be compromised");

    const [verdict, sentence] = this.failure
      ? ["invalid", this.failure.message]
      : sandbox
        ? ["quarantined", SANDBOX]
        : (custody ?? ["valid", "every check holds"]);
    const place = this.failure?.place ?? {};
    return { verdict, sentence, place, checks: this.checks, receipt };
  }
}

class Failure extends Error {
  constructor(message, place) {
    super(message);
    this.place = place;
  }

  static document(why) {
    return new Failure(why, {});
  }

  static member(name, why) {
    return new Failure(`member \`${name}\`: ${why}`, { member: name });
  }

  static entry(index, stage, why) {
    const named = stage ? `entry ${index} (${stage})` : `entry ${index}`;
    return new Failure(`${named}: ${why}`, { entry: index, stage: stage ?? null });
  }
}

// ---- The transparency log: C2SP signed notes and checkpoints, RFC 6962 ----

// Where the receipt is logged, if the proof shows that it is in a log that the pin names.
async function shows(proof, receipt, pin) {
  const note = parseNote(proof.checkpoint);
  const [origin] = note.text.split("\n", 1);
  const log = pin.logs.find((log) => log.name === origin);
  if (!log) throw Failure.document(`the pin names no log \`${origin}\``);
  if ((await signedBy(note, log)) === null) throw Failure.document(`note refused: \`${log.name}\` did not sign it`);
  const checkpoint = parseCheckpoint(note.text);
  const witnessed = [];
  for (const witness of pin.witnesses.keys) {
    const at = await signedBy(note, witness);
    if (at !== null) witnessed.push({ name: witness.name, at });
  }
  const { need } = pin.witnesses;
  if (witnessed.length < need) {
    throw Failure.document(`${witnessed.length} of the witnesses pinned cosigned its checkpoint, but ${need} are needed`);
  }
  const promised = receipt.metadata.log;
  if (!promised?.nonce) throw Failure.member("metadata.log", "promises no place in a log");
  // What was put back is logged again in a later epoch of its log, which the pin names too.
  if (epochless(promised.origin) !== epochless(origin)) throw Failure.member("metadata.log.origin", "is not the log of the proof");
  const place = readPlace(proof);
  const kind = receipt.eventType === "ORIGINAL" ? TERMINAL : AMENDMENT;
  const made = Math.floor(millis(receipt.created) / HOUR);
  // The clock may have been set back by a little between the receipt and its entry; what was entered long after was dated back.
  const inTime = place.leaf.hour + 1 >= made && place.leaf.hour <= made + MERGED_WITHIN;
  const fits = place.leaf.kind === kind && inTime;
  if (!fits || !(await opens(place.leaf, fromBase64url(promised.nonce), encode(canonical(receipt))))) {
    throw Failure.document("the leaf of the proof is not this receipt's");
  }
  await included(place, checkpoint);
  const compromisedLater = proof.compromise === null ? null : await compromised(proof.compromise, place.index, checkpoint);
  return { ...checkpoint, index: place.index, witnessed, need, compromisedLater };
}

const epochless = (origin) => origin.replace(/\/epoch-[1-9]\d{0,14}$/, "");

// A witness's word is somebody else's, and as many have to say so as have to cosign; the log's own order holds only as far as its key
// was not lost with the other.
function loggedBefore(logged, kid, lostAt) {
  const before = logged?.witnessed.filter(({ at }) => at * 1000n < BigInt(Date.parse(lostAt))) ?? [];
  if (logged && before.length >= Math.max(logged.need, 1)) {
    const names = before.map(({ name }) => `\`${name}\``).join(", ");
    return `key compromised later: ${names} had seen it logged by then`;
  }
  return logged?.compromisedLater === kid ? "key compromised later: its log says so behind it" : null;
}

// The key of which the log says behind that leaf that it is compromised.
async function compromised(known, index, checkpoint) {
  const wrong = (why) => Failure.document(`bundle refused: of the key's compromise, ${why}`);
  members(known, ["entry", "index", "leaf", "nonce", "path", "record"], "the key's compromise");
  const place = readPlace(known);
  await included(place, checkpoint);
  if (place.index <= index) throw wrong("the leaf stands before the receipt's");
  const fits = place.leaf.kind === KEY_EVENT && (await opens(place.leaf, bytesOf(known.nonce, 32), encode(canonical(known.entry))));
  const { entry, record } = known;
  const same = isObject(entry) && isObject(record) && entry.event === "signing_key_compromised" && isText(record.kid);
  if (!fits || !same || entry.actionHash !== (await sha256Hex(canonical(record)))) {
    throw wrong("leaf, entry and record do not belong together");
  }
  return record.kid;
}

async function included({ index, leaf, path }, { size, root }) {
  const refused = (why) => Failure.document(`proof refused: ${why}`);
  if (BigInt(index) >= size) throw refused("the tree has no leaf of that number");
  let [node, last] = [BigInt(index), size - 1n];
  let hash = await digest([0], leaf.bytes);
  for (const other of path) {
    if (last === 0n) throw refused("it is longer than it should be");
    if ((node & 1n) === 1n || node === last) {
      hash = await digest([1], other, hash);
      // A last node without a partner stands for itself in the rows above.
      while ((node & 1n) === 0n && node !== 0n) [node, last] = [node >> 1n, last >> 1n];
    } else {
      hash = await digest([1], hash, other);
    }
    [node, last] = [node >> 1n, last >> 1n];
  }
  if (last !== 0n) throw refused("it is shorter than it should be");
  if (!equal(hash, root)) throw refused("it does not lead to the root");
}

function readPlace({ index, leaf, path }) {
  const whole = isWhole(index) && Array.isArray(path);
  if (!whole) throw Failure.document("bundle refused: `index` is no whole number, or `path` no list");
  return { index, leaf: readLeaf(bytesOf(leaf, LEAF)), path: path.map((hash) => bytesOf(hash, 32)) };
}

function readLeaf(bytes) {
  if (bytes[0] !== 1) throw Failure.document("leaf refused: it is of a version that is not known here");
  if (bytes[1] < 1 || bytes[1] > 7) throw Failure.document("leaf refused: it is of a kind that is not known here");
  const hour = new DataView(bytes.buffer, bytes.byteOffset).getUint32(34);
  return { bytes, kind: bytes[1], hour, commitment: bytes.slice(42) };
}

const opens = async (leaf, nonce, record) => equal(leaf.commitment, await digest(nonce, record));

function parseNote(text) {
  const refused = (why) => Failure.document(`note refused: ${why}`);
  if (!isText(text)) throw refused("it is no text");
  if (encode(text).length > LONGEST_NOTE) throw refused(`it is longer than ${LONGEST_NOTE} bytes`);
  if (/[\u0000-\u0009\u000b-\u001f]/.test(text)) throw refused("it has control characters");
  const end = text.lastIndexOf("\n\n");
  if (end < 0) throw refused("nothing stands below its text");
  if (!text.endsWith("\n")) throw refused("its last line has no end");
  const lines = text.slice(end + 2, -1).split("\n");
  if (lines.length > MOST_SIGNATURES) throw refused(`it has more than ${MOST_SIGNATURES} signatures`);
  const signatures = lines.map((line) => {
    const [, name, base64] = /^\u2014 ([^\p{White_Space}+]+) ([^ ]+)$/u.exec(line) ?? [];
    const bytes = base64 === undefined ? null : fromBase64(base64);
    if (!bytes || bytes.length < 5) throw refused("a line below its text is no signature");
    return { name, id: bytes.slice(0, 4), bytes: bytes.slice(4) };
  });
  return { text: text.slice(0, end + 1), signatures };
}

function parseCheckpoint(text) {
  const refused = (why) => Failure.document(`checkpoint refused: ${why}`);
  const [origin, size, encodedRoot, end, ...more] = text.split("\n");
  if (end !== "" || more.length > 0) throw refused("it does not consist of origin, size and root");
  const root = fromBase64(encodedRoot);
  if (root?.length !== 32) throw refused("its root is not base64 of 32 bytes");
  if (!/^(0|[1-9]\d{0,19})$/.test(size) || BigInt(size) >= 1n << 64n) throw refused("its size is no number");
  return { origin, size: BigInt(size), root };
}

// When that key signed a note first: a cosignature says when, in seconds since 1970, any other 0; null if it did not. A signature that
// says it is this key's and is not makes the whole note one that is not believed.
async function signedBy(note, { name, id, kind, key }) {
  let signed = null;
  for (const line of note.signatures.filter((line) => line.name === name && equal(line.id, id))) {
    const timed = kind === COSIGNED;
    const at = timed && line.bytes.length >= 8 ? new DataView(line.bytes.buffer).getBigUint64(0) : 0n;
    const message = timed ? `cosignature/v1\ntime ${at}\n${note.text}` : note.text;
    const signature = timed ? line.bytes.slice(8) : line.bytes;
    if (!(await ed25519(key, signature, encode(message)))) {
      throw Failure.document(`note refused: the signature by \`${name}\` is wrong`);
    }
    if (signed === null || at < signed) signed = at;
  }
  return signed;
}

async function ed25519(key, signature, message) {
  let imported;
  try {
    imported = await crypto.subtle.importKey("raw", key, "Ed25519", false, ["verify"]);
  } catch {
    throw Failure.document("a key of the pin is none, or this browser does not know Ed25519");
  }
  return crypto.subtle.verify("Ed25519", imported, signature, message);
}

// A verifier key, `name+id+key`.
async function readKey(text, kind) {
  const shown = isText(text) ? text : "a key";
  const refused = (why) => Failure.document(`the pin cannot be used: \`${shown}\`: ${why}`);
  const [, name, id, base64] = (isText(text) && /^([^\p{White_Space}+]+)\+([0-9a-f]{8})\+(\S+)$/u.exec(text)) || [];
  const bytes = name === undefined ? null : fromBase64(base64);
  if (bytes?.length !== 33) throw refused("it has not the form `name+id+key`");
  if (bytes[0] !== kind) throw refused(kind === SIGNED ? "it is not a log's Ed25519 key" : "it is not a witness's Ed25519 key");
  const hash = await digest(encode(`${name}\n`), bytes);
  if (hex(hash.slice(0, 4)) !== id) throw refused("its id is not that of its name and key");
  return { name, id: hash.slice(0, 4), kind, key: bytes.slice(1) };
}

async function readPin(text) {
  const refused = (why) => Failure.document(`the pin cannot be used: ${why}`);
  // As strictly as receipts are read, so that no two readers differ about whom it names.
  const pin = new Reader(text.replace(/^\p{White_Space}+|\p{White_Space}+$/gu, "")).whole();
  const known = (object, names) => {
    const other = Object.keys(object).find((name) => !names.includes(name));
    if (other !== undefined) throw refused(`\`${other}\` is not a member of the format`);
  };
  known(pin, ["issuer", "jwks", "logs", "witnesses"]);
  const digests = (all) => Array.isArray(all) && all.length > 0 && all.every((one) => isText(one) && DIGEST.test(one));
  if (!isText(pin.issuer) || !digests(pin.jwks)) throw refused("it names no issuer and key sets");
  const logs = pin.logs === undefined ? [] : pin.logs;
  const witnesses = pin.witnesses ?? { keys: [], need: 0 };
  if (!Array.isArray(logs) || !isObject(witnesses) || !Array.isArray(witnesses.keys) || !isWhole(witnesses.need)) {
    throw refused("`logs` or `witnesses` is not as it should be");
  }
  known(witnesses, ["keys", "need"]);
  const each = async (keys, kind) => {
    const read = await Promise.all(keys.map((key) => readKey(key, kind)));
    // No witness counts twice; a log that began anew has the key of the one before.
    const same = (one, other) => one.name === other.name || (kind === COSIGNED && equal(one.key, other.key));
    const twice = (key, at) => read.slice(0, at).some((other) => same(other, key));
    if (read.some(twice)) throw refused("a name, or its key, stands twice");
    return read;
  };
  const keys = await each(witnesses.keys, COSIGNED);
  if (witnesses.need > keys.length) throw refused("`witnesses` needs more than it lists");
  return { issuer: pin.issuer, jwks: pin.jwks, logs: await each(logs, SIGNED), witnesses: { keys, need: witnesses.need } };
}

function readBundle(text) {
  const bundle = new Reader(text, 2 * MAX_LENGTH).whole();
  members(bundle, ["jwks", "proof", "receipt", "spec"], "the bundle");
  const { proof, receipt, spec } = bundle;
  if (spec !== BUNDLE) throw Failure.document(`bundle refused: \`spec\` is not \`${BUNDLE}\``);
  members(proof, ["checkpoint", "compromise", "index", "leaf", "path", "spec"], "the proof");
  if (proof.spec !== PROOF) throw Failure.document(`bundle refused: \`spec\` is not \`${PROOF}\``);
  if (!isObject(receipt)) throw Failure.document("bundle refused: its receipt is no object");
  return bundle;
}

// A key set is read whole, whichever of its keys is needed then, so that no two readers differ about what it is.
async function checkKeySet(jwks) {
  const refused = (why) => Failure.document(`key set refused: ${why}`);
  const keys = isObject(jwks) ? jwks.keys : null;
  if (!Array.isArray(keys)) throw refused("it has no `keys`");
  const known = new Set();
  for (const [index, key] of keys.entries()) {
    const why = isObject(key) ? await keyFault(key) : "it is no object";
    if (why) throw refused(`key ${index}: ${why}`);
    if (known.has(key.kid)) throw refused(`key \`${key.kid}\` stands twice`);
    known.add(key.kid);
  }
}

async function keyFault(key) {
  const secret = PRIVATE.find((name) => name in key);
  if (secret !== undefined) return `member \`${secret}\` belongs to a private key; do not publish it, and replace the key`;
  const { crv, kty, x, y } = key;
  if (kty !== "EC" || crv !== "P-256") return "it is not a P-256 key";
  if ((key.alg ?? "ES256") !== "ES256" || (key.use ?? "sig") !== "sig") return "it is not a key to verify ES256 with";
  if (![x, y].every((part) => isText(part) && fromBase64url(part)?.length === 32)) return "a coordinate is not base64url of 32 bytes";
  const thumbprint = base64url(await sha256(canonical({ crv, kty, x, y })));
  if (thumbprint !== key.kid) return `its thumbprint is \`${thumbprint}\``;
  try {
    await crypto.subtle.importKey("jwk", { crv, kty, x, y }, { name: "ECDSA", namedCurve: "P-256" }, false, ["verify"]);
  } catch {
    return "it is not a point on the curve";
  }
  if (!timesHold(key)) return "its status and times do not agree";
  return null;
}

// These members and no others.
function members(object, names, what) {
  const same = isObject(object) && Object.keys(object).sort().join() === names.join();
  if (!same) throw Failure.document(`bundle refused: ${what} has not the members ${names.join(", ")}`);
}

function bytesOf(text, length) {
  const bytes = isText(text) ? fromBase64url(text) : null;
  if (bytes?.length === length) return bytes;
  throw Failure.document(`bundle refused: a text is not unpadded base64url of ${length} bytes`);
}

const equal = (a, b) => a.length === b.length && a.every((byte, at) => byte === b[at]);

// Members of RFC 7518 that only private and symmetric keys have.
const PRIVATE = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];
const BUNDLE = "countersign-bundle/1";
const PROOF = "countersign-proof/1";
const [TERMINAL, AMENDMENT, KEY_EVENT] = [2, 3, 5];
const [SIGNED, COSIGNED] = [1, 4];
const DIGEST = /^sha256:[0-9a-f]{64}$/;
const LEAF = 74;
const HOUR = 3_600_000;
// Hours after a receipt by which it is in the log at the latest: the day that is promised, and some for clocks that are set back.
const MERGED_WITHIN = 25;
const MOST_SIGNATURES = 64;
const LONGEST_NOTE = 256 << 10;

// ---- The format ----

function checkDocument(receipt) {
  checkMembers(receipt, DOCUMENT, "");
  for (const [index, entry] of receipt.entries.entries()) checkEntry(entry, index);
  if (receipt.entries.length === 0) throw Failure.entry(0, null, "there is no entry");
  if (receipt.entries.length > STAGES.length) {
    throw Failure.entry(STAGES.length, null, "there are more entries than stages");
  }
  if (receipt.metadata.approvals.length > MOST_APPROVALS) {
    throw Failure.member("metadata.approvals", `are more than ${MOST_APPROVALS}`);
  }
  for (const [index, approval] of receipt.metadata.approvals.entries()) checkApproval(approval, index);
  const amends = receipt.amendmentOf !== null;
  if (amends === (receipt.eventType === "ORIGINAL")) {
    const why = amends ? "an original receipt amends none" : "an amendment names the receipt it amends";
    throw Failure.member("amendmentOf", why);
  }
  if (amends && receipt.amendmentOf === receipt.receiptId) throw Failure.member("amendmentOf", "is the receipt itself");
  const log = receipt.metadata.log;
  if (log !== null && "mergeBy" in log !== "nonce" in log) {
    throw Failure.member("metadata.log", "promises a place without saying by when, or with what nonce");
  }
  // A place that is promised for some day far away is promised never.
  if (log !== null && "mergeBy" in log && millis(log.mergeBy) > millis(receipt.created) + MERGED_WITHIN * HOUR) {
    throw Failure.member("metadata.log.mergeBy", `is more than ${MERGED_WITHIN} hours after the receipt`);
  }
  const money = receipt.money;
  for (const side of ["offer", "charge"]) {
    if (money[`${side}Amount`] !== null && money[`${side}Currency`] === null) {
      throw Failure.member(`money.${side}Currency`, "is missing beside an amount");
    }
  }
}

function checkEntry(entry, index) {
  if (!isObject(entry)) throw Failure.entry(index, null, "an object was expected");
  const stage = STAGES.includes(entry.stage) ? entry.stage : null;
  const fault = (name, why) => Failure.entry(index, stage, `member \`${name}\` ${why}`);
  for (const name of Object.keys(ENTRY)) if (!(name in entry)) throw fault(name, "is missing");
  for (const [name, value] of Object.entries(entry)) {
    if (!(name in ENTRY)) throw fault(name, "is not a member of the format");
    const why = ENTRY[name](value);
    if (why) throw fault(name, why);
  }
}

function checkApproval(approval, index) {
  const path = `metadata.approvals[${index}]`;
  if (!isObject(approval)) throw Failure.member(path, "is not an object");
  checkMembers(approval, APPROVAL, `${path}.`);
  const { assertion, credential_id, decision, envelope, form, public_key } = approval;
  if (decision !== envelope.decision) throw Failure.member(`${path}.decision`, "is not the one in the envelope");
  const passkey = form === "passkey";
  if (passkey !== (assertion !== null)) throw Failure.member(`${path}.assertion`, "does not fit the form");
  if (!passkey && public_key !== null) throw Failure.member(`${path}.public_key`, "stands beside an API key");
  const why = passkey ? encoded(credential_id) : null;
  if (why) throw Failure.member(`${path}.credential_id`, why);
}

function checkMembers(object, shape, path) {
  for (const name of Object.keys(shape)) {
    if (!(name in object) && !shape[name].absent) throw Failure.member(path + name, "is missing");
  }
  for (const [name, value] of Object.entries(object)) {
    if (!Object.hasOwn(shape, name)) throw Failure.member(path + name, "is not a member of the format");
    const rule = shape[name];
    const check = typeof rule === "function" ? rule : rule.check;
    if (check) {
      const why = check(value);
      if (why) throw Failure.member(path + name, why);
    } else if (rule.maybe && value === null) {
      continue;
    } else if (!isObject(value)) {
      throw Failure.member(path + name, "is not an object");
    } else {
      checkMembers(value, rule.members, `${path}${name}.`);
    }
  }
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isText = (value) => typeof value === "string";
const isWhole = (value) => Number.isSafeInteger(value) && value >= 0;
const isTimeOrNothing = (value) => value === null || value === undefined || isTime(value);

// Since 1970; what was before that is as then.
const millis = (time) => Math.max(Date.parse(time), 0);

function isTime(value) {
  if (!isText(value) || !/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/.test(value)) return false;
  const at = new Date(value);
  return !Number.isNaN(at.getTime()) && at.toISOString() === value;
}

const rule = (holds, why) => (value) => (holds(value) ? null : why);
const orNull = (check) => (value) => (value === null ? null : check(value));
const text = rule(isText, "is not a string");
const filled = rule((value) => isText(value) && value !== "", "is empty or not a string");
const time = rule(isTime, "is not a time of the form 2026-04-27T12:00:00.000Z");
const whole = rule(isWhole, "is not a whole number");
const uuid = rule(
  (value) => isText(value) && /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(value),
  "is not a lower-case UUID",
);
const decimal = rule(
  (value) => isText(value) && /^(0|[1-9]\d*)(\.\d+)?$/.test(value) && value.replace(".", "").length <= 18,
  "is not a decimal string",
);
const oneOf = (...spellings) => rule((value) => spellings.includes(value), `is none of ${spellings.join(", ")}`);
const list = (why) => rule((value) => Array.isArray(value), why);
const anything = () => null;
const encoded = rule((value) => isText(value) && fromBase64url(value) !== null, "is not unpadded base64url");
const encoded32 = rule(
  (value) => isText(value) && fromBase64url(value)?.length === 32,
  "is not unpadded base64url of 32 bytes",
);
const committed = rule(
  (value) => isText(value) && value.startsWith("c:") && fromBase64url(value.slice(2))?.length === 32,
  "is not a commitment",
);
const decision = oneOf("approve", "reject");

const STAGES = [
  "__genesis__",
  "token_validation",
  "schema",
  "boundary",
  "completeness",
  "math",
  "execute",
  "commit_auth_split",
  "receipt",
];

const ENTRY = {
  __proto__: null,
  checkpointSignature: rule((value) => value === null, "is not null"),
  cost: orNull(decimal),
  error: anything,
  hash: text,
  input: anything,
  latencyMs: whole,
  metadata: rule((value) => isObject(value) && isTime(value.at), "has no valid `at`"),
  output: anything,
  previousHash: text,
  stage: oneOf(...STAGES),
};

const APPROVAL = {
  __proto__: null,
  assertion: { maybe: true, members: { authenticator_data: encoded, client_data_json: encoded, signature: encoded } },
  at: time,
  credential_id: filled,
  decision,
  envelope: {
    members: {
      action_id: uuid,
      approver: committed,
      binding_digests: rule(
        (value) =>
          isObject(value) &&
          Object.entries(value).every(([name, digest]) => /^[\0-\x7f]+$/.test(name) && isText(digest)),
        "is not an object of strings",
      ),
      catalog_digest: filled,
      comment: orNull(committed),
      constraints: rule(isObject, "is not an object"),
      decision,
      escalation_id: filled,
      expires_at: time,
      limits: {
        absent: true,
        members: {
          applies_to: { absent: true, check: rule((value) => value === "SESSION", "is not `SESSION`") },
          max_amount: { absent: true, members: { amount: decimal, currency: filled } },
          not_after: { absent: true, check: time },
        },
      },
      nonce: encoded32,
      policy_digest: filled,
      quote: { maybe: true, members: { amount: decimal, currency: filled } },
      reasons: rule((value) => Array.isArray(value) && value.every(isText), "is not an array of strings"),
      request_hash: rule((value) => isText(value) && /^[0-9a-f]{64}$/.test(value), "is not 64 lower-case hex digits"),
      rollback: orNull(committed),
      summary_digest: committed,
      v: rule((value) => value === 1, "is not 1"),
    },
  },
  form: oneOf("key", "passkey"),
  public_key: { maybe: true, members: { crv: oneOf("P-256"), kty: oneOf("EC"), x: encoded32, y: encoded32 } },
};

const DOCUMENT = {
  agentId: filled,
  amendmentOf: orNull(uuid),
  chainId: filled,
  created: time,
  entries: list("is not an array"),
  eventType: oneOf(
    "ORIGINAL",
    "AMENDMENT_ROLLBACK",
    "AMENDMENT_SETTLEMENT",
    "AMENDMENT_RETRY",
    "AMENDMENT_OVERAGE",
  ),
  idempotencyKey: orNull(text),
  metadata: {
    members: {
      approvals: list("is not an array"),
      archetype: orNull(text),
      catalogDigest: orNull(text),
      entityDigest: orNull(text),
      environment: oneOf("production", "sandbox"),
      guaranteeLevel: orNull(text),
      intentId: orNull(text),
      issuer: filled,
      kind: oneOf("executed", "blocked", "failed", "pending_settlement"),
      log: {
        maybe: true,
        members: {
          mergeBy: { absent: true, check: time },
          nonce: { absent: true, check: encoded32 },
          origin: text,
          root: text,
          size: whole,
        },
      },
      mandateId: orNull(text),
      observed: { maybe: true, members: { code: orNull(text), would_be: text } },
      policyDigest: orNull(text),
      tenant: filled,
    },
  },
  money: {
    members: {
      chargeAmount: orNull(decimal),
      chargeCurrency: orNull(text),
      offerAmount: orNull(decimal),
      offerCurrency: orNull(text),
    },
  },
  paymentStatus: oneOf("charged", "not_charged", "pending_provider_confirmation"),
  receiptId: uuid,
  regulatoryFramework: rule((value) => Array.isArray(value) && value.every(isText), "is not an array of strings"),
  replicaId: filled,
  sessionId: orNull(text),
  signature: { members: { alg: oneOf("ES256"), kid: text, value: text } },
  transactionId: uuid,
  version: { members: { spec: oneOf("ep-receipt/2026-04-27") } },
};

const CHECKS = [
  "structure",
  "entries",
  "chain",
  "created",
  "issuer",
  "key",
  "encoding",
  "signature",
  "window",
  "environment",
  "custody",
];
const SANDBOX = "from the sandbox, where nothing happens in the world";
const MOST_APPROVALS = 32;
const NO_HASH = "0".repeat(64);
// (n - 1) / 2 for the order n of P-256, the largest low S.
const HALF_ORDER = 0x7fffffff800000007fffffffffffffffde737d56d38bcf4279dce5617e3192a8n;

// ---- Canonical JSON (RFC 8785) ----

// JSON.stringify spells numbers and strings as RFC 8785 wants them; only the order of members is left to do, and
// sort() compares by UTF-16 code units, as it wants them too.
export function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (!isObject(value)) return JSON.stringify(value);
  const members = Object.keys(value).sort();
  return `{${members.map((name) => `${JSON.stringify(name)}:${canonical(value[name])}`).join(",")}}`;
}

// ---- Strict JSON ----

// JSON.parse keeps the last of two equal members and rounds integers, so two readers could differ about what was
// said. This reader refuses both, and knows which entry it was in when something was wrong.
export function parse(text) {
  return new Reader(text).document();
}

class Reader {
  path = [];
  at = 0;

  constructor(text, longest = MAX_LENGTH) {
    this.text = text;
    this.longest = longest;
  }

  whole() {
    if (encode(this.text).length > this.longest) throw Failure.document(`longer than ${this.longest} bytes`);
    this.space();
    const value = this.value();
    if (!isObject(value)) throw Failure.document("an object was expected");
    this.space();
    if (this.at < this.text.length) throw Failure.document("something follows the document");
    return value;
  }

  document() {
    const value = this.whole();
    if (!("entries" in value)) throw Failure.member("entries", "is missing");
    if (!Array.isArray(value.entries)) throw Failure.member("entries", "is not an array");
    return value;
  }

  value() {
    if (this.path.length > MAX_DEPTH) throw this.fault("nested too deeply");
    switch (this.text[this.at]) {
      case "{":
        return this.object();
      case "[":
        return this.array();
      case '"':
        return this.string();
      case "t":
        return this.word("true", true);
      case "f":
        return this.word("false", false);
      case "n":
        return this.word("null", null);
      default:
        return this.number();
    }
  }

  object() {
    // Without a prototype `__proto__` is a name like any other.
    const object = Object.create(null);
    this.at += 1;
    this.space();
    if (this.eat("}")) return object;
    for (;;) {
      this.space();
      if (this.text[this.at] !== '"') throw this.fault("a member name was expected");
      const name = this.string();
      if (name in object) throw this.fault(`member \`${name}\` stands twice`);
      this.space();
      if (!this.eat(":")) throw this.fault("a colon was expected");
      this.space();
      this.path.push(name);
      object[name] = this.value();
      this.path.pop();
      this.space();
      if (this.eat("}")) return object;
      if (!this.eat(",")) throw this.fault("a comma was expected");
    }
  }

  array() {
    const items = [];
    this.at += 1;
    this.space();
    if (this.eat("]")) return items;
    for (;;) {
      this.space();
      this.path.push(items.length);
      items.push(this.value());
      this.path.pop();
      this.space();
      if (this.eat("]")) return items;
      if (!this.eat(",")) throw this.fault("a comma was expected");
    }
  }

  string() {
    STRING.lastIndex = this.at;
    const [raw] = STRING.exec(this.text) ?? [null];
    if (raw === null) throw this.fault("a string is malformed");
    this.at += raw.length;
    const string = JSON.parse(raw);
    if (/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/.test(string)) {
      throw this.fault("a string holds half a character");
    }
    return string;
  }

  number() {
    NUMBER.lastIndex = this.at;
    const [raw] = NUMBER.exec(this.text) ?? [null];
    if (raw === null) throw this.fault("a value was expected");
    this.at += raw.length;
    const number = Number(raw);
    const spelledAsInteger = /^-?\d+$/.test(String(number));
    if (!Number.isFinite(number) || (spelledAsInteger && !Number.isSafeInteger(number))) {
      throw this.fault("an integer is outside ±(2^53-1)");
    }
    return number;
  }

  word(word, value) {
    if (!this.eat(word)) throw this.fault("a value was expected");
    return value;
  }

  eat(literal) {
    if (!this.text.startsWith(literal, this.at)) return false;
    this.at += literal.length;
    return true;
  }

  space() {
    while (" \t\n\r".includes(this.text[this.at] ?? "x")) this.at += 1;
  }

  fault(why) {
    const [first, index] = this.path;
    if (first === "entries" && Number.isInteger(index)) return Failure.entry(index, null, why);
    return Failure.document(`not valid JSON: ${why}, at character ${this.at}`);
  }
}

const STRING = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y;
const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const MAX_DEPTH = 100;
const MAX_LENGTH = 4 << 20;

// ---- Bytes ----

const encode = (text) => new TextEncoder().encode(text);
const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
const sha256 = (text) => digest(encode(text));
const sha256Hex = async (text) => hex(await sha256(text));

// SHA-256 over one part after the other.
async function digest(...parts) {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return new Uint8Array(await crypto.subtle.digest("SHA-256", all));
}

// A function takes only so many arguments.
function base64(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(text);
}

export function base64url(bytes) {
  return base64(bytes)
    .replaceAll("+", "-")
    .replaceAll("/", "_")
    .replaceAll("=", "");
}

// Strict: one text for one value, no padding, no stray bits.
export function fromBase64url(text) {
  if (!/^[A-Za-z0-9_-]*$/.test(text) || text.length % 4 === 1) return null;
  const bytes = Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
  return base64url(bytes) === text ? bytes : null;
}

// The same of base64 with its padding, as signed notes have it.
function fromBase64(text) {
  if (!/^[A-Za-z0-9+/]*={0,2}$/.test(text) || text.length % 4 !== 0) return null;
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return base64(bytes) === text ? bytes : null;
}

// The digest by which verifiers pin a key set.
export async function jwksDigest(jwks) {
  return `sha256:${await sha256Hex(canonical(jwks))}`;
}
