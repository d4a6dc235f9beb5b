-- What is marked sent is leased, and what had no effect may wait to be sent again.

ALTER TABLE fate ADD COLUMN token INTEGER NOT NULL DEFAULT 1;  -- rises each time it changes hands
ALTER TABLE fate ADD COLUMN owner INTEGER;                     -- the process that is at it: the entry that opened its chain
ALTER TABLE fate ADD COLUMN until INTEGER;                     -- the end of its lease, or the time at which it is due
ALTER TABLE fate ADD COLUMN moved INTEGER;                     -- the entry with which it last went on after it was admitted
