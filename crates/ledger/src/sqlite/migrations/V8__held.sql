-- What was held, by agent: how many of it wait is asked before another is. What never waited is not in it.
CREATE INDEX action_held ON action (tenant, subject, expires) WHERE expires IS NOT NULL;
