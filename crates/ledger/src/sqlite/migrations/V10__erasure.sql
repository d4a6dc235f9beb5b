-- What actions were about is erased: by themselves after a time, or because somebody asked.

-- When an action is to be erased by itself. Of those whose time may have come it is looked up how long ago they were
-- settled.
CREATE TABLE deletion (
    action INTEGER PRIMARY KEY, -- row
    due INTEGER NOT NULL,       -- not before then: so long after it came in
    after INTEGER NOT NULL      -- so long after it is settled, in milliseconds
) STRICT;
CREATE INDEX deletion_due ON deletion (due);

-- What is erased. Its rows stay, and are empty.
CREATE TABLE erasure (
    action INTEGER PRIMARY KEY, -- row
    entry INTEGER NOT NULL      -- that tells of it
) STRICT;
