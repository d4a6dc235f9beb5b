-- Ids by which a caller knows its action, and others that it names: `name=value`, one per line. They are erased with the payload.
ALTER TABLE action ADD COLUMN refs TEXT;
