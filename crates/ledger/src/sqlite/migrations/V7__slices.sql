-- What is new in an index over hashes goes into a small slice, and becomes part of a big one with its neighbours: a
-- commit touches a page of each index or two. Big slices have negative numbers.

ALTER TABLE effect RENAME COLUMN action TO row;
ALTER TABLE address RENAME COLUMN outcome TO row;
UPDATE effect SET slice = -1 - slice;
UPDATE address SET slice = -1 - (slice >> 2);
