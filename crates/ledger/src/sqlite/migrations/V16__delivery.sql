-- Calls without a key of their own that are alike: how many of their outcomes their caller has.
CREATE TABLE delivery (
    alike BLOB PRIMARY KEY,     -- HMAC of caller, tool and arguments under the tenant's key
    times INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
