-- How far people agreed to whatever a session does, for the rest of it; only ever lowered.
ALTER TABLE session ADD COLUMN limit_minor INTEGER;
ALTER TABLE session ADD COLUMN limit_currency TEXT;
ALTER TABLE session ADD COLUMN limit_until INTEGER;
ALTER TABLE session ADD COLUMN limited INTEGER; -- row of the newest entry that says so

-- Granted on top of a mandate's envelope, or below zero given away, as `granted` is of its time.
ALTER TABLE account ADD COLUMN granted_compute INTEGER NOT NULL DEFAULT 0;
ALTER TABLE account ADD COLUMN granted_storage INTEGER NOT NULL DEFAULT 0;
ALTER TABLE account ADD COLUMN granted_egress INTEGER NOT NULL DEFAULT 0;

-- Who opens a session under a mandate must not be in a cluster under it about which people have to decide.
CREATE INDEX cluster_open ON cluster (tenant) WHERE NOT terminated;
