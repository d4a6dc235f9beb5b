-- People decide on held actions, and what enough of them agree to is admitted after all.

ALTER TABLE action ADD COLUMN round INTEGER;        -- how often it was held
ALTER TABLE action ADD COLUMN needed INTEGER;       -- how many people have to agree to the latest hold
ALTER TABLE action ADD COLUMN resumed INTEGER;      -- when it was judged again, and claimed its effect anew
ALTER TABLE action ADD COLUMN resumed_row INTEGER;  -- the newest row then: its effect is found in that slice

ALTER TABLE api_key ADD COLUMN created_by TEXT;

-- Numbered in the order of their entries. Who said what stands in the record; the other columns only find and count.
CREATE TABLE approval (
    row INTEGER PRIMARY KEY,
    action INTEGER NOT NULL,
    round INTEGER NOT NULL,
    approver TEXT NOT NULL,
    at INTEGER NOT NULL,
    entry INTEGER NOT NULL,
    record BLOB NOT NULL,
    UNIQUE (action, round, approver)
) STRICT;
