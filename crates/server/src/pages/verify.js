// Verifies a receipt where it is read: no library, no network, nothing believed that was not checked.
//
// `verify(text, jwks, options)` takes the document as received and makes the same checks in the same order as the
// `receipt` crate, but for the signatures of people who approved: whose keys those are a page cannot know, so
// `countersign verify --approvers` checks them. It runs in browsers and in Node, with WebCrypto and nothing else. The report:
//
//   { verdict: "valid" | "quarantined" | "time unproven" | "invalid",
//     sentence, place: { entry, stage } | { member } | {}, checks: [{ name, outcome, detail }], receipt }

export async function verify(text, jwks, { issuer = null, allowSandbox = false } = {}) {
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
  return table.report(receipt, key, allowSandbox);
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
  const status = key.ep_compromised_at ? "compromised" : key.ep_active_through ? "verify-only" : "active";
  const timed = isTime(key.ep_active_from) && [key.ep_active_through, key.ep_compromised_at].every(isTimeOrNothing);
  if (key.ep_status !== status || !timed) {
    throw Failure.member("signature.kid", "the key's status and times do not agree");
  }
  return key;
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
      this.checks.push({ name, outcome: otherwise, detail });
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

  report(receipt, key, allowSandbox) {
    const sandbox = receipt.metadata.environment === "sandbox" && !allowSandbox;
    if (sandbox) this.failed("environment", SANDBOX);
    else this.passed("environment", receipt.metadata.environment);
    const lostAt = key?.ep_compromised_at;
    const custody = !lostAt
      ? null
      : receipt.created >= lostAt
        ? ["quarantined", `made after its key was compromised at ${lostAt}`]
        : ["time unproven", `its key was compromised at ${lostAt}, and nothing proves that it was made before`];
    if (!key) this.skipped("custody", "no key to check");
    else if (custody) this.failed("custody", custody[1]);
    else this.passed("custody", "the key is not known to be compromised");

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

  constructor(text) {
    this.text = text;
  }

  document() {
    if (this.text.length > MAX_LENGTH) throw Failure.document(`longer than ${MAX_LENGTH} characters`);
    this.space();
    const value = this.value();
    if (!isObject(value)) throw Failure.document("an object was expected");
    this.space();
    if (this.at < this.text.length) throw Failure.document("something follows the document");
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
const sha256 = async (text) => new Uint8Array(await crypto.subtle.digest("SHA-256", encode(text)));
const sha256Hex = async (text) =>
  Array.from(await sha256(text), (byte) => byte.toString(16).padStart(2, "0")).join("");

export function base64url(bytes) {
  return btoa(String.fromCharCode(...bytes))
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

// The digest by which verifiers pin a key set.
export async function jwksDigest(jwks) {
  const digest = await sha256(canonical(jwks));
  return `sha256:${Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
