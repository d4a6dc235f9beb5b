-- What transmitters told us of sessions and mandates: each event is taken once.
CREATE TABLE security_event (
    tenant TEXT NOT NULL,
    issuer TEXT NOT NULL,
    jti TEXT NOT NULL,
    hash BLOB NOT NULL,         -- SHA-256 of the token
    id TEXT NOT NULL,           -- of its record
    PRIMARY KEY (tenant, issuer, jti)
) STRICT, WITHOUT ROWID;
