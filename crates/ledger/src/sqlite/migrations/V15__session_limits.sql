-- How far people agreed to whatever a session does, for the rest of it; only ever lowered.
ALTER TABLE session ADD COLUMN limit_minor INTEGER;
ALTER TABLE session ADD COLUMN limit_currency TEXT;
ALTER TABLE session ADD COLUMN limit_until INTEGER;
ALTER TABLE session ADD COLUMN limited INTEGER; -- row of the newest entry that says so
