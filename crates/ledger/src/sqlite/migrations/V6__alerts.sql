-- What people are told of is read off the chain; here stands how far each destination got, and what it was not told yet.

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
