-- The transparency logs. They grow by entries behind the mark `logged` in `meta`.

CREATE TABLE log (
    tenant TEXT PRIMARY KEY,
    size INTEGER NOT NULL,
    root BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- Hashes of the tree: of leaves (level 0), and of whole tiles of the level below.
CREATE TABLE log_tile (
    tenant TEXT NOT NULL,
    level INTEGER NOT NULL,
    number INTEGER NOT NULL,
    hashes BLOB NOT NULL,
    UNIQUE (tenant, level, number)
) STRICT;

CREATE TABLE log_leaf (
    tenant TEXT NOT NULL,
    number INTEGER NOT NULL,
    entry INTEGER NOT NULL,
    action BLOB,                -- its id; of what has a nonce here
    leaf BLOB NOT NULL,
    nonce BLOB,                 -- null if the receipt brings it, or it was erased
    PRIMARY KEY (tenant, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX log_leaf_entry ON log_leaf (entry);
CREATE INDEX log_leaf_action ON log_leaf (action) WHERE action IS NOT NULL;
