-- The audit trail: entries of actions, found by what they say and by what their action is.

-- What an action is found by beside who asked and for what. It outlives the payload, so nothing belongs here that a
-- person could want erased.
ALTER TABLE action ADD COLUMN session TEXT;
ALTER TABLE action ADD COLUMN verb TEXT;        -- null where the archetype is all that was said
ALTER TABLE action ADD COLUMN target TEXT;
ALTER TABLE action ADD COLUMN level TEXT;       -- of guarantee
ALTER TABLE action ADD COLUMN regulations TEXT; -- one per line

-- Rows from before these columns say it in their payload.
UPDATE action SET level = json_extract(CAST(payload AS TEXT), '$.guarantee_level'),
    session = json_extract(CAST(payload AS TEXT), '$.session_id')
WHERE json_valid(CAST(payload AS TEXT));

-- Which entries tell of a pruning: a place to look, and nothing to believe.
CREATE TABLE pruning (
    entry INTEGER PRIMARY KEY
) STRICT;
INSERT INTO pruning SELECT row FROM entry
WHERE record IS NOT NULL AND instr(CAST(bytes AS TEXT), '"event":"pruned"');

-- 1024 neighbouring entries, taken in beside the commits of actions and after them. A slice without a row here is
-- searched by reading its entries.
CREATE TABLE audit_slice (
    slice INTEGER PRIMARY KEY,  -- row of its entries >> 10
    first INTEGER NOT NULL,     -- time of the earliest and latest entry in it; where there is none, no time is between
    last INTEGER NOT NULL       -- them
) STRICT;
CREATE TABLE audit_term (
    key INTEGER PRIMARY KEY,    -- slice << 4 | what is looked by
    postings BLOB NOT NULL
) STRICT;
