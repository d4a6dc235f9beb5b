-- Rows of many gateways. Everything of an action is keyed by its id, which sorts by time, and is partitioned by that;
-- entries are numbered by time and are partitioned by their numbers. What is unique over all of time is not partitioned.

-- One row for each lock that stands for no other row. Whoever migrates, makes partitions, registers or freezes locks one.
CREATE TABLE IF NOT EXISTS gate (
    name TEXT PRIMARY KEY
);
INSERT INTO gate VALUES ('migration'), ('registry') ON CONFLICT DO NOTHING;

-- The processes that write, each with the end of its chain. Numbers rise; a place in the numbering of rows (slot) is given
-- again when whoever had it is gone, and its next chain follows on the last.
CREATE TABLE replica (
    number BIGINT PRIMARY KEY,
    slot SMALLINT NOT NULL,
    name TEXT NOT NULL,             -- replicaId
    chain TEXT NOT NULL,            -- chainId
    seq BIGINT NOT NULL,            -- of the next entry
    head BYTEA,                     -- hash of the last entry
    at BIGINT NOT NULL,             -- time of that
    last BIGINT NOT NULL,           -- what it still writes has a higher number
    beat TIMESTAMPTZ NOT NULL,
    ended BOOLEAN NOT NULL DEFAULT FALSE
) WITH (fillfactor = 20);
CREATE UNIQUE INDEX replica_slot ON replica (slot) WHERE NOT ended;

CREATE TABLE entry (
    row BIGINT NOT NULL,            -- by time; the lowest bits are the slot
    slot SMALLINT NOT NULL,
    action BYTEA,
    bytes BYTEA NOT NULL,
    record BYTEA,                   -- of an event that is no action, or of an erasure
    PRIMARY KEY (row)
) PARTITION BY RANGE (row);
CREATE TABLE entry_default PARTITION OF entry DEFAULT WITH (toast_tuple_target = 8160);
CREATE INDEX entry_slot ON entry (slot, row);
CREATE INDEX entry_record ON entry (row) WHERE record IS NOT NULL;

-- Keys of clients, once for all of time.
CREATE TABLE claim (
    tenant TEXT NOT NULL,
    digest BYTEA NOT NULL,
    action BYTEA NOT NULL,
    PRIMARY KEY (tenant, digest)
);

-- Rows to lock for what may not be there yet: effects, and agents of which something is to wait. After a crash or a failover
-- nobody holds a lock, and there need be none of them.
CREATE UNLOGGED TABLE guard (
    tenant TEXT NOT NULL,
    kind SMALLINT NOT NULL,
    key BYTEA NOT NULL,
    at TIMESTAMPTZ NOT NULL,        -- when it was locked, to within minutes
    PRIMARY KEY (tenant, kind, key)
);
CREATE INDEX guard_at ON guard (at);

-- What was asked.
CREATE TABLE action (
    tenant TEXT NOT NULL,
    id BYTEA NOT NULL,
    row BIGINT NOT NULL,
    environment SMALLINT NOT NULL,
    subject TEXT NOT NULL,
    key TEXT,
    claim BYTEA,
    request_hash BYTEA NOT NULL,
    archetype TEXT NOT NULL,
    principal TEXT NOT NULL,
    mandates TEXT,                  -- one jti per line, leaf first
    effect BYTEA,
    at BIGINT NOT NULL,
    claimed BIGINT NOT NULL,        -- when it was judged the last time, and claimed its effect
    expires BIGINT,
    round INTEGER NOT NULL,
    needed INTEGER NOT NULL,
    currency TEXT,
    session TEXT,
    verb TEXT,
    target TEXT,
    level TEXT,
    regulations TEXT,               -- one per line
    refs TEXT,                      -- one per line
    erase_after BIGINT,
    erased BIGINT,                  -- the entry that tells of it
    entry BIGINT NOT NULL,          -- the one it began with
    payload BYTEA NOT NULL,
    PRIMARY KEY (tenant, id)
) PARTITION BY RANGE (id);
CREATE TABLE action_default PARTITION OF action DEFAULT WITH (toast_tuple_target = 8160);
CREATE INDEX action_id ON action (id);
CREATE INDEX action_row ON action (tenant, row);
CREATE INDEX action_effect ON action (tenant, effect, claimed) WHERE effect IS NOT NULL;
CREATE INDEX action_held ON action (tenant, subject, expires) WHERE expires IS NOT NULL;
CREATE INDEX action_erase ON action ((at + erase_after)) WHERE erase_after IS NOT NULL AND erased IS NULL;

-- What became of it: small rows, because they are written again.
CREATE TABLE fate (
    id BYTEA NOT NULL,
    tenant TEXT NOT NULL,
    row BIGINT NOT NULL,            -- of the action
    state SMALLINT NOT NULL,
    debit BIGINT NOT NULL,          -- minor units debited by now
    outcome BIGINT,                 -- the latest, by its entry
    reply BIGINT,                   -- the latest that has a reply
    token INTEGER NOT NULL,         -- rises each time it changes hands
    owner BIGINT,                   -- the replica that is at it
    until BIGINT,                   -- the end of its lease, or the time at which it is due
    moved BIGINT,                   -- the entry with which it last went on after it was admitted
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);
CREATE TABLE fate_default PARTITION OF fate DEFAULT WITH (toast_tuple_target = 8160);
CREATE INDEX fate_open ON fate (row) WHERE state <= 3;

CREATE TABLE outcome (
    action BYTEA NOT NULL,
    entry BIGINT NOT NULL,
    tenant TEXT NOT NULL,
    previous BIGINT,                -- the outcome before, of the same action
    state SMALLINT NOT NULL,
    at BIGINT NOT NULL,
    status INTEGER,
    body BYTEA,
    receipt_id TEXT,
    short TEXT,
    short_tag BIGINT,
    signature TEXT,
    signature_tag BIGINT,
    document BYTEA,
    payload BYTEA NOT NULL,
    PRIMARY KEY (action, entry)
) PARTITION BY RANGE (action);
CREATE TABLE outcome_default PARTITION OF outcome DEFAULT WITH (toast_tuple_target = 8160);
CREATE INDEX outcome_entry ON outcome (entry);
CREATE INDEX outcome_receipt ON outcome (tenant, receipt_id) WHERE receipt_id IS NOT NULL;
CREATE INDEX outcome_short ON outcome (short_tag) WHERE short_tag IS NOT NULL;
CREATE INDEX outcome_signature ON outcome (signature_tag) WHERE signature_tag IS NOT NULL;

-- People's words on held actions. Who said what stands in the record; the other columns only find and count.
CREATE TABLE approval (
    action BYTEA NOT NULL,
    round INTEGER NOT NULL,
    approver TEXT NOT NULL,
    at BIGINT NOT NULL,
    entry BIGINT NOT NULL,
    record BYTEA NOT NULL,
    PRIMARY KEY (action, round, approver)
) PARTITION BY RANGE (action);
CREATE TABLE approval_default PARTITION OF approval DEFAULT WITH (toast_tuple_target = 8160);
CREATE INDEX approval_entry ON approval (entry);

-- What an action debited beside money; of those that used nothing there is no row.
CREATE TABLE usage (
    action BYTEA NOT NULL,
    seconds BIGINT NOT NULL,
    compute BIGINT NOT NULL,
    memory BIGINT NOT NULL,
    storage BIGINT NOT NULL,
    egress BIGINT NOT NULL,
    PRIMARY KEY (action)
) PARTITION BY RANGE (action);
CREATE TABLE usage_default PARTITION OF usage DEFAULT WITH (toast_tuple_target = 8160);

-- Actions that are cycles of a session.
CREATE TABLE cycle (
    action BYTEA NOT NULL,
    tenant TEXT NOT NULL,
    session BIGINT NOT NULL,
    sequence BIGINT,
    intent TEXT,
    first TEXT NOT NULL,            -- id of its first record
    last TEXT NOT NULL,             -- id of its latest record
    PRIMARY KEY (action)
) PARTITION BY RANGE (action);
CREATE TABLE cycle_default PARTITION OF cycle DEFAULT WITH (toast_tuple_target = 8160);
CREATE INDEX cycle_session ON cycle (tenant, session);

CREATE TABLE account (
    tenant TEXT NOT NULL,
    key BIGINT NOT NULL,            -- 64 bits of the hash of tenant and jti
    jti TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    spent BIGINT NOT NULL,
    actions BIGINT NOT NULL,
    revoked BIGINT,
    frozen BOOLEAN NOT NULL,
    seconds BIGINT NOT NULL,
    compute BIGINT NOT NULL,
    memory BIGINT NOT NULL,
    storage BIGINT NOT NULL,
    egress BIGINT NOT NULL,
    granted BIGINT NOT NULL,
    granted_compute BIGINT NOT NULL,
    granted_storage BIGINT NOT NULL,
    granted_egress BIGINT NOT NULL,
    PRIMARY KEY (tenant, key)
) WITH (fillfactor = 50);

CREATE TABLE mandate (
    tenant TEXT NOT NULL,
    jti TEXT NOT NULL,
    row BIGINT NOT NULL,            -- the entry it was issued with
    account BIGINT NOT NULL,
    subject TEXT NOT NULL,
    issuer TEXT NOT NULL,
    issued BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    claims BYTEA NOT NULL,
    chain TEXT,                     -- the mandates it descends from, one jti per line, root first
    kid TEXT,
    PRIMARY KEY (tenant, jti)
);
CREATE INDEX mandate_row ON mandate (tenant, row);

CREATE TABLE series (
    tenant TEXT NOT NULL,
    key BIGINT NOT NULL,
    bytes BYTEA NOT NULL,
    PRIMARY KEY (tenant, key)
) WITH (fillfactor = 50);

CREATE TABLE seen (
    tenant TEXT NOT NULL,
    mark BIGINT NOT NULL,
    PRIMARY KEY (tenant, mark)
);

CREATE TABLE stop (
    kind TEXT NOT NULL,
    tenant TEXT NOT NULL,           -- empty where the scope crosses tenants
    name TEXT NOT NULL,
    include_rollback BOOLEAN NOT NULL,
    at BIGINT NOT NULL,
    by TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (kind, tenant, name)
);

-- Tenants that are only observed, for all gateways alike.
CREATE TABLE observed (
    tenant TEXT PRIMARY KEY,
    until BIGINT NOT NULL
);

CREATE TABLE principal_key (
    tenant TEXT NOT NULL,
    issuer TEXT NOT NULL,
    kid TEXT NOT NULL,              -- its RFC 7638 thumbprint
    row BIGINT NOT NULL,            -- the entry it was registered with
    jwk TEXT NOT NULL,
    created BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    revoked BIGINT,
    PRIMARY KEY (tenant, issuer, kid)
);

CREATE TABLE api_key (
    hash BYTEA PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    row BIGINT NOT NULL,            -- the entry it was added with
    tenant TEXT NOT NULL,
    subject TEXT NOT NULL,
    role TEXT NOT NULL,
    default_mandate TEXT,
    created BIGINT NOT NULL,
    created_by TEXT,
    revoked BIGINT
);

-- Passkeys by which people approve. Whose one is and what it signs with stands in the record of the entry that
-- registered it; these columns only find it.
CREATE TABLE passkey (
    id TEXT PRIMARY KEY,
    tenant TEXT NOT NULL,
    credential BYTEA NOT NULL UNIQUE,
    registered BIGINT NOT NULL,     -- entries
    enrolled BIGINT,
    revoked BIGINT
);

CREATE TABLE tenant_key (
    tenant TEXT PRIMARY KEY,
    wrapped BYTEA NOT NULL
);

CREATE TABLE kept (
    digest TEXT PRIMARY KEY,
    text BYTEA NOT NULL
);

-- Calls without a key of their own that are alike: how many of their outcomes their caller has.
CREATE TABLE delivery (
    alike BYTEA PRIMARY KEY,        -- HMAC of caller, tool and arguments under the tenant's key
    times BIGINT NOT NULL
);

-- Requests that wait for their clients, who may come back to any gateway. No part of any action: a row is gone once it is over.
CREATE TABLE aside (
    id BYTEA PRIMARY KEY,
    tenant TEXT NOT NULL,
    action BYTEA,                   -- that it is a call of
    bound BYTEA NOT NULL,           -- an HMAC of who asks for what
    holder BIGINT NOT NULL,         -- the replica that has it under way
    round INTEGER NOT NULL,         -- rises with each question
    questions BYTEA NOT NULL,       -- sealed, and so are the next ones
    taker BIGINT,                   -- the replica to which its client came back in this round
    said BYTEA,                     -- what the client says
    told BYTEA[] NOT NULL,          -- what the client is told before there is a result
    given_up BOOLEAN NOT NULL DEFAULT FALSE,
    result BYTEA,
    until TIMESTAMPTZ NOT NULL
) WITH (fillfactor = 50);
CREATE INDEX aside_holder ON aside (holder);
CREATE INDEX aside_action ON aside (action) WHERE action IS NOT NULL;
CREATE INDEX aside_until ON aside (until);

-- Governed sessions. A row changes only in the commit of the entry that says so.
CREATE TABLE session (
    tenant TEXT NOT NULL,
    key BIGINT NOT NULL,            -- 64 bits of the hash of tenant and id
    id TEXT NOT NULL,
    subject TEXT NOT NULL,
    mandate TEXT NOT NULL,          -- jti
    opened BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    sequence BIGINT NOT NULL,
    next BIGINT NOT NULL,           -- number of the next record
    held INTEGER NOT NULL,
    in_flight INTEGER NOT NULL,
    denials INTEGER NOT NULL,
    cycles BIGINT NOT NULL,
    blocked BIGINT,
    suspended BOOLEAN NOT NULL,
    closed SMALLINT,
    halt SMALLINT,
    limit_minor BIGINT,
    limit_currency TEXT,
    limit_until BIGINT,
    limited BIGINT,                 -- the newest entry that says so
    recovering BIGINT,              -- the entry with which its recovery began, until that ends
    opening TEXT NOT NULL,          -- id of its first record
    entry BIGINT NOT NULL,          -- row of that
    payload BYTEA NOT NULL,
    PRIMARY KEY (tenant, key)
) WITH (fillfactor = 50);
CREATE INDEX session_entry ON session (tenant, entry);
CREATE INDEX session_open ON session (tenant, mandate) WHERE closed IS NULL;
CREATE INDEX session_recovering ON session (entry) WHERE recovering IS NOT NULL;

-- Where the records of a session are in the chain.
CREATE TABLE record (
    tenant TEXT NOT NULL,
    session BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    entry BIGINT NOT NULL,
    PRIMARY KEY (tenant, session, seq)
);
CREATE UNIQUE INDEX record_entry ON record (entry);

-- Intent declarations; what they say is the record of their entry.
CREATE TABLE declaration (
    tenant TEXT NOT NULL,
    mandate TEXT NOT NULL,
    intent TEXT NOT NULL,
    session BIGINT NOT NULL,
    id TEXT NOT NULL,               -- of its record
    entry BIGINT NOT NULL,
    PRIMARY KEY (tenant, mandate, intent)
);
CREATE UNIQUE INDEX declaration_intent ON declaration (tenant, session, intent);
CREATE INDEX declaration_newest ON declaration (tenant, session, entry);

-- What transmitters told us of sessions and mandates: each event is taken once.
CREATE TABLE security_event (
    tenant TEXT NOT NULL,
    issuer TEXT NOT NULL,
    jti TEXT NOT NULL,
    hash BYTEA NOT NULL,            -- SHA-256 of the token
    id TEXT NOT NULL,               -- of its record
    PRIMARY KEY (tenant, issuer, jti)
);

-- Clusters of governed sessions. Rows change only in the commit of the entry that says so.
CREATE TABLE cluster (
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    deadline BIGINT NOT NULL,
    held BOOLEAN NOT NULL,
    terminated BOOLEAN NOT NULL,
    formed BIGINT NOT NULL,
    opening TEXT NOT NULL,          -- id of its first record
    entry BIGINT NOT NULL,          -- row of the newest entry that says how it stands
    PRIMARY KEY (tenant, id)
);
CREATE INDEX cluster_open ON cluster (tenant) WHERE NOT terminated;

-- Sessions in clusters, each in one at most.
CREATE TABLE member (
    tenant TEXT NOT NULL,
    cluster TEXT NOT NULL,
    place INTEGER NOT NULL,
    session TEXT NOT NULL,          -- id
    session_key BIGINT NOT NULL,
    mandate TEXT NOT NULL,          -- jti
    principal TEXT NOT NULL,
    waits TEXT,                     -- id of the session it waits for
    PRIMARY KEY (tenant, cluster, place)
);
CREATE UNIQUE INDEX member_session ON member (tenant, session);

-- What the chains say was pruned: a place to look, and nothing to believe.
CREATE TABLE pruning (
    entry BIGINT PRIMARY KEY
);

-- What people are told of is read off the chains; here stands how far each destination got, and what it was not told yet.
CREATE TABLE destination (
    name TEXT PRIMARY KEY,
    entry BIGINT NOT NULL,          -- everything up to here is told, waits below, or is nothing to tell
    seen TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp() -- when a gateway last said that it tells it, to within an hour
);
CREATE TABLE notice (
    destination TEXT NOT NULL,
    entry BIGINT NOT NULL,          -- what is told
    about BYTEA NOT NULL,
    action BYTEA,
    taken BIGINT NOT NULL,          -- when it was put here
    tries INTEGER NOT NULL,
    next BIGINT NOT NULL,           -- not tried before
    teller BIGINT,                  -- the replica that tries
    until TIMESTAMPTZ,              -- and until when nobody else does
    PRIMARY KEY (destination, entry)
);
CREATE INDEX notice_about ON notice (destination, about, entry);

-- The transparency logs. They grow by entries behind the mark; whoever grows one locks that first.
CREATE TABLE logged (
    name TEXT PRIMARY KEY,
    upto BIGINT NOT NULL
) WITH (fillfactor = 20);
INSERT INTO logged VALUES ('entries', 0);

CREATE TABLE log (
    tenant TEXT PRIMARY KEY,
    size BIGINT NOT NULL,
    root BYTEA NOT NULL
) WITH (fillfactor = 20);

-- What a log is called and by what key it is signed, as whoever signed it first had it.
CREATE TABLE log_name (
    tenant TEXT PRIMARY KEY,
    name TEXT NOT NULL
);

-- Hashes of the tree above the leaves: of whole tiles of the level below. Those of leaves are made of the leaves.
CREATE TABLE log_tile (
    tenant TEXT NOT NULL,
    level SMALLINT NOT NULL,
    number BIGINT NOT NULL,
    hashes BYTEA NOT NULL,
    PRIMARY KEY (tenant, level, number)
) WITH (fillfactor = 70);

-- The leaves that one round added, never written again.
CREATE TABLE log_leaf (
    tenant TEXT NOT NULL,
    first BIGINT NOT NULL,          -- the number of the first of them
    entry BIGINT NOT NULL,          -- the entry that it stands for
    leaves BYTEA NOT NULL,          -- of each: its entry, 8 bytes with the high one first, and the leaf
    PRIMARY KEY (tenant, first),
    UNIQUE (tenant, entry)
);
