-- What those who govern did is read along the chain, over all that actions did between.
CREATE INDEX entry_record ON entry (row) WHERE record IS NOT NULL;
