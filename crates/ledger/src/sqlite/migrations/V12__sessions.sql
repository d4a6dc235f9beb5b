-- Governed sessions. A row changes only in the commit of the entry that says so.
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
) STRICT;
CREATE UNIQUE INDEX session_entry ON session (entry);
CREATE INDEX session_open ON session (tenant, mandate) WHERE closed IS NULL;

-- Where the records of a session are in the chain.
CREATE TABLE record (
    session INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    entry INTEGER NOT NULL,     -- row
    PRIMARY KEY (session, seq)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX record_entry ON record (entry);

-- Intent declarations; what they say is the record of their entry.
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

-- Actions that are cycles of a session.
CREATE TABLE cycle (
    action INTEGER PRIMARY KEY, -- row
    session INTEGER NOT NULL,
    sequence INTEGER,
    intent TEXT,
    last TEXT NOT NULL          -- id of its latest record
) STRICT;
CREATE INDEX cycle_session ON cycle (session);
