-- Clusters of governed sessions. Rows change only in the commit of the entry that says so.
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

-- Sessions in clusters, each in one at most.
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
