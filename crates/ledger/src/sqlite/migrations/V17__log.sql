-- The transparency logs. They grow by entries behind the mark `logged` in `meta`.

CREATE TABLE log (
    tenant TEXT PRIMARY KEY,
    size INTEGER NOT NULL,
    root BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- What a log is called and by what key it is signed, as whoever signed it first had it.
CREATE TABLE log_name (
    tenant TEXT PRIMARY KEY,
    name TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Hashes of the tree above the leaves: of whole tiles of the level below. Those of leaves are made of the leaves.
CREATE TABLE log_tile (
    tenant TEXT NOT NULL,
    level INTEGER NOT NULL,
    number INTEGER NOT NULL,
    hashes BLOB NOT NULL,
    UNIQUE (tenant, level, number)
) STRICT;

-- The leaves that one round added, never written again.
CREATE TABLE log_leaf (
    tenant TEXT NOT NULL,
    first INTEGER NOT NULL,     -- the number of the first of them
    entry INTEGER NOT NULL,     -- the entry that it stands for
    leaves BLOB NOT NULL,       -- of each: its entry, 8 bytes with the high one first, and the leaf
    UNIQUE (tenant, first),
    UNIQUE (tenant, entry)
) STRICT;
