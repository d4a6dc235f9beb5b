-- Passkeys by which people approve. Whose one is and what it signs with stands in the record of the entry that
-- registered it; these columns only find it.
CREATE TABLE passkey (
    row INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    credential BLOB NOT NULL UNIQUE,
    registered INTEGER NOT NULL,    -- entries
    enrolled INTEGER,
    revoked INTEGER
) STRICT;
