-- A store may be copied into this one. While that is not done no process registers here.

CREATE TABLE store_copy (
    head BYTEA PRIMARY KEY,         -- hash of the last entry that is copied
    entry BIGINT NOT NULL,          -- row of that
    begun BIGINT NOT NULL,
    done BIGINT
);

-- How far each table has come: changed in the transaction that writes its rows.
CREATE TABLE table_copy (
    name TEXT PRIMARY KEY,
    rows BIGINT NOT NULL,
    cursor TEXT,                    -- keys of the last row in the source, JSON
    done BOOLEAN NOT NULL
);
