CREATE TABLE action (
    row INTEGER PRIMARY KEY,
    id BLOB NOT NULL,
    tenant TEXT NOT NULL,
    environment INTEGER NOT NULL,
    subject TEXT NOT NULL,
    key TEXT,
    slot INTEGER,               -- 64 bits of the claim's hash; the next number if taken by another key
    request_hash BLOB NOT NULL,
    archetype TEXT NOT NULL,
    principal TEXT NOT NULL,
    mandates TEXT,              -- one jti per line, leaf first
    effect BLOB,
    series INTEGER,             -- the history it counts in; null if it was not sent
    at INTEGER NOT NULL,
    expires INTEGER,
    amount INTEGER NOT NULL,    -- minor units asked
    currency TEXT,
    entry INTEGER NOT NULL,
    payload BLOB NOT NULL
, round INTEGER, needed INTEGER, resumed INTEGER, resumed_row INTEGER, session TEXT, verb TEXT, target TEXT, level TEXT, regulations TEXT, refs TEXT) STRICT;
CREATE UNIQUE INDEX action_id ON action (id);
CREATE UNIQUE INDEX action_slot ON action (slot) WHERE slot IS NOT NULL;
CREATE TABLE fate (
    row INTEGER PRIMARY KEY,    -- of the action
    state INTEGER NOT NULL,
    debit INTEGER NOT NULL,     -- minor units debited by now
    outcome INTEGER,            -- the latest
    reply INTEGER               -- the latest outcome that has a reply
, token INTEGER NOT NULL DEFAULT 1, owner INTEGER, until INTEGER, moved INTEGER) STRICT;
CREATE INDEX fate_open ON fate (state) WHERE state <= 3;
CREATE TABLE outcome (
    row INTEGER PRIMARY KEY,
    action INTEGER NOT NULL,
    previous INTEGER,           -- the outcome before, of the same action
    state INTEGER NOT NULL,
    at INTEGER NOT NULL,
    status INTEGER,
    body BLOB,
    receipt_id TEXT,
    short TEXT,
    signature TEXT,
    document BLOB,
    entry INTEGER NOT NULL,
    payload BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX outcome_receipt ON outcome (receipt_id) WHERE receipt_id IS NOT NULL;
CREATE TABLE address (
    slice INTEGER NOT NULL,
    tag INTEGER NOT NULL,
    outcome INTEGER NOT NULL,
    PRIMARY KEY (slice, tag, outcome)
) STRICT, WITHOUT ROWID;
CREATE TABLE effect (
    slice INTEGER NOT NULL,
    tag INTEGER NOT NULL,
    action INTEGER NOT NULL,
    PRIMARY KEY (slice, tag, action)
) STRICT, WITHOUT ROWID;
CREATE TABLE entry (
    row INTEGER PRIMARY KEY,
    bytes BLOB NOT NULL,
    record BLOB                 -- of an event that is no action
) STRICT;
CREATE TABLE account (
    key INTEGER PRIMARY KEY,    -- 64 bits of the hash of tenant and jti
    epoch INTEGER NOT NULL,
    spent INTEGER NOT NULL,
    actions INTEGER NOT NULL,
    revoked INTEGER,
    frozen INTEGER NOT NULL
, seconds INTEGER NOT NULL DEFAULT 0, compute INTEGER NOT NULL DEFAULT 0, memory INTEGER NOT NULL DEFAULT 0, storage INTEGER NOT NULL DEFAULT 0, egress INTEGER NOT NULL DEFAULT 0, granted INTEGER NOT NULL DEFAULT 0, granted_compute INTEGER NOT NULL DEFAULT 0, granted_storage INTEGER NOT NULL DEFAULT 0, granted_egress INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE mandate (
    row INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    jti TEXT NOT NULL,
    account INTEGER NOT NULL,
    subject TEXT NOT NULL,
    issuer TEXT NOT NULL,
    issued INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    claims BLOB NOT NULL, chain TEXT, kid TEXT,
    UNIQUE (tenant, jti)
) STRICT;
CREATE TABLE freeze (
    kind TEXT NOT NULL,
    tenant TEXT NOT NULL,       -- empty where the scope crosses tenants
    name TEXT NOT NULL,
    include_rollback INTEGER NOT NULL,
    at INTEGER NOT NULL,
    by TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (kind, tenant, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE series (
    key INTEGER PRIMARY KEY,
    bytes BLOB NOT NULL
) STRICT;
CREATE TABLE seen (
    mark INTEGER PRIMARY KEY
) STRICT;
CREATE TABLE api_key (
    row INTEGER PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    id TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    subject TEXT NOT NULL,
    role TEXT NOT NULL,
    default_mandate TEXT,
    created INTEGER NOT NULL,
    revoked INTEGER
, created_by TEXT) STRICT;
CREATE TABLE tenant_key (
    tenant TEXT PRIMARY KEY,
    wrapped BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE kept (
    digest TEXT PRIMARY KEY,
    text BLOB NOT NULL
) STRICT;
CREATE TABLE repeat (
    action BLOB PRIMARY KEY,
    count INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE approval (
    row INTEGER PRIMARY KEY,
    action INTEGER NOT NULL,
    round INTEGER NOT NULL,
    approver TEXT NOT NULL,
    at INTEGER NOT NULL,
    entry INTEGER NOT NULL,
    record BLOB NOT NULL,
    UNIQUE (action, round, approver)
) STRICT;
CREATE TABLE pruning (
    entry INTEGER PRIMARY KEY
) STRICT;
CREATE TABLE audit_slice (
    slice INTEGER PRIMARY KEY,  -- row of its entries >> 10
    first INTEGER NOT NULL,     -- time of the earliest and latest entry in it; where there is none, no time is between
    last INTEGER NOT NULL       -- them
) STRICT;
CREATE TABLE audit_term (
    key INTEGER PRIMARY KEY,    -- slice << 4 | what is looked by
    postings BLOB NOT NULL
) STRICT;
CREATE TABLE passkey (
    row INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    credential BLOB NOT NULL UNIQUE,
    registered INTEGER NOT NULL,    -- entries
    enrolled INTEGER,
    revoked INTEGER
) STRICT;
CREATE TABLE destination (
    name TEXT PRIMARY KEY,
    entry INTEGER NOT NULL      -- everything up to here is told, waits below, or is nothing to tell
) STRICT, WITHOUT ROWID;
CREATE TABLE notice (
    destination TEXT NOT NULL,
    entry INTEGER NOT NULL,     -- what is told
    action BLOB NOT NULL,
    taken INTEGER NOT NULL,     -- when it was put here
    tries INTEGER NOT NULL,
    next INTEGER NOT NULL,      -- not tried before
    PRIMARY KEY (destination, entry)
) STRICT, WITHOUT ROWID;
CREATE INDEX notice_action ON notice (destination, action, entry);
CREATE INDEX entry_record ON entry (row) WHERE record IS NOT NULL;
CREATE INDEX action_held ON action (tenant, subject, expires) WHERE expires IS NOT NULL;
CREATE TABLE deletion (
    action INTEGER PRIMARY KEY, -- row
    due INTEGER NOT NULL,       -- not before then: so long after it came in
    after INTEGER NOT NULL      -- so long after it is settled, in milliseconds
) STRICT;
CREATE INDEX deletion_due ON deletion (due);
CREATE TABLE erasure (
    action INTEGER PRIMARY KEY, -- row
    entry INTEGER NOT NULL      -- that tells of it
) STRICT;
CREATE TABLE usage (
    action INTEGER PRIMARY KEY, -- row
    seconds INTEGER NOT NULL,
    compute INTEGER NOT NULL,
    memory INTEGER NOT NULL,
    storage INTEGER NOT NULL,
    egress INTEGER NOT NULL
) STRICT;
CREATE TABLE principal_key (
    row INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    issuer TEXT NOT NULL,
    kid TEXT NOT NULL,          -- its RFC 7638 thumbprint
    jwk TEXT NOT NULL,
    created INTEGER NOT NULL,
    created_by TEXT NOT NULL,
    revoked INTEGER,
    UNIQUE (tenant, issuer, kid)
) STRICT;
CREATE TABLE session (
    key INTEGER PRIMARY KEY,    -- 64 bits of the hash of tenant and id
    id TEXT NOT NULL,
    tenant TEXT NOT NULL,
    subject TEXT NOT NULL,
    mandate TEXT NOT NULL,      -- jti
    opened INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    next INTEGER NOT NULL,      -- number of the next record
    held INTEGER NOT NULL,
    in_flight INTEGER NOT NULL,
    denials INTEGER NOT NULL,
    cycles INTEGER NOT NULL,
    blocked INTEGER,
    suspended INTEGER NOT NULL,
    closed INTEGER,
    halt INTEGER,
    opening TEXT NOT NULL,      -- id of its first record
    entry INTEGER NOT NULL,     -- row of that
    payload BLOB NOT NULL
, limit_minor INTEGER, limit_currency TEXT, limit_until INTEGER, limited INTEGER) STRICT;
CREATE UNIQUE INDEX session_entry ON session (entry);
CREATE INDEX session_open ON session (tenant, mandate) WHERE closed IS NULL;
CREATE TABLE record (
    session INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    entry INTEGER NOT NULL,     -- row
    PRIMARY KEY (session, seq)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX record_entry ON record (entry);
CREATE TABLE declaration (
    session INTEGER NOT NULL,
    intent TEXT NOT NULL,
    tenant TEXT NOT NULL,
    mandate TEXT NOT NULL,
    id TEXT NOT NULL,           -- of its record
    entry INTEGER NOT NULL,     -- row of that
    PRIMARY KEY (session, intent)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX declaration_intent ON declaration (tenant, mandate, intent);
CREATE INDEX declaration_newest ON declaration (session, entry);
CREATE TABLE cycle (
    action INTEGER PRIMARY KEY, -- row
    session INTEGER NOT NULL,
    sequence INTEGER,
    intent TEXT,
    last TEXT NOT NULL          -- id of its latest record
) STRICT;
CREATE INDEX cycle_session ON cycle (session);
CREATE TABLE cluster (
    key INTEGER PRIMARY KEY,    -- 64 bits of the hash of tenant and id
    id TEXT NOT NULL,
    tenant TEXT NOT NULL,
    deadline INTEGER NOT NULL,
    held INTEGER NOT NULL,
    terminated INTEGER NOT NULL,
    formed INTEGER NOT NULL,
    opening TEXT NOT NULL,      -- id of its first record
    entry INTEGER NOT NULL      -- row of the newest entry that says how it stands
) STRICT;
CREATE INDEX cluster_id ON cluster (id);
CREATE TABLE member (
    cluster INTEGER NOT NULL,
    place INTEGER NOT NULL,
    session INTEGER NOT NULL,   -- key
    id TEXT NOT NULL,
    mandate TEXT NOT NULL,      -- jti
    principal TEXT NOT NULL,
    waits TEXT,                 -- id of the session it waits for
    PRIMARY KEY (cluster, place)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX member_session ON member (session);
CREATE TABLE security_event (
    tenant TEXT NOT NULL,
    issuer TEXT NOT NULL,
    jti TEXT NOT NULL,
    hash BLOB NOT NULL,         -- SHA-256 of the token
    id TEXT NOT NULL,           -- of its record
    PRIMARY KEY (tenant, issuer, jti)
) STRICT, WITHOUT ROWID;
CREATE INDEX cluster_open ON cluster (tenant) WHERE NOT terminated;
CREATE TABLE delivery (
    alike BLOB PRIMARY KEY,     -- HMAC of caller, tool and arguments under the tenant's key
    times INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE log (
    tenant TEXT PRIMARY KEY,
    size INTEGER NOT NULL,
    root BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE log_name (
    tenant TEXT PRIMARY KEY,
    name TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE log_tile (
    tenant TEXT NOT NULL,
    level INTEGER NOT NULL,
    number INTEGER NOT NULL,
    hashes BLOB NOT NULL,
    UNIQUE (tenant, level, number)
) STRICT;
CREATE TABLE log_leaf (
    tenant TEXT NOT NULL,
    first INTEGER NOT NULL,     -- the number of the first of them
    entry INTEGER NOT NULL,     -- the entry that it stands for
    leaves BLOB NOT NULL,       -- of each: its entry, 8 bytes with the high one first, and the leaf
    UNIQUE (tenant, first),
    UNIQUE (tenant, entry)
) STRICT;
