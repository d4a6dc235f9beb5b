-- Mandates are handed on, principals sign them with keys of their own, and actions of sessions use time and resources.

ALTER TABLE account ADD COLUMN seconds INTEGER NOT NULL DEFAULT 0;  -- used by now
ALTER TABLE account ADD COLUMN compute INTEGER NOT NULL DEFAULT 0;
ALTER TABLE account ADD COLUMN memory INTEGER NOT NULL DEFAULT 0;   -- the most at any one time
ALTER TABLE account ADD COLUMN storage INTEGER NOT NULL DEFAULT 0;
ALTER TABLE account ADD COLUMN egress INTEGER NOT NULL DEFAULT 0;
ALTER TABLE account ADD COLUMN granted INTEGER NOT NULL DEFAULT 0;  -- seconds on top of the mandate's own

ALTER TABLE mandate ADD COLUMN chain TEXT;  -- the mandates it descends from, one jti per line, root first
ALTER TABLE mandate ADD COLUMN kid TEXT;    -- the principal's key that signed it; null if it was issued here

-- What an action debited beside money; of those that used nothing there is no row.
CREATE TABLE usage (
    action INTEGER PRIMARY KEY, -- row
    seconds INTEGER NOT NULL,
    compute INTEGER NOT NULL,
    memory INTEGER NOT NULL,
    storage INTEGER NOT NULL,
    egress INTEGER NOT NULL
) STRICT;

-- Keys with which principals sign mandates. One that ended does not come back.
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
