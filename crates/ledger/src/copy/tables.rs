//! Every table of a database, and what it is made of when a store is copied into it.
//!
//! Rows keep the numbers that they have in the file: those of a database come from its clock and are far above, so that what
//! records name by number stays true. What is keyed by a row of `action` or `outcome` there is keyed by the action's id and by
//! the outcome's entry here.
//!
//! A test reads both schemas and fails on a table, or a column, that is neither here nor in [`LEFT`] or [`MADE`].

/// Where the rows of one table come from.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    /// What they are read by, in its order: unique, and never null.
    pub(crate) keys: &'static [&'static str],
    pub(crate) from: &'static str,
    /// Which of them.
    pub(crate) only: Option<&'static str>,
    /// Each column, and what it is made of.
    pub(crate) columns: &'static [(&'static str, &'static str)],
}

impl Table {
    /// The columns that are written.
    pub(crate) fn names(&self) -> String {
        self.columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn count(&self) -> String {
        let only = self.only.map(|only| format!(" WHERE {only}")).unwrap_or_default();
        format!("SELECT count(*) FROM {}{only}", self.from)
    }

    /// Keys and columns of the rows behind those keys, if they are told, and of so many as the last parameter says.
    pub(crate) fn read(&self, goes_on: bool) -> String {
        let keys = self.keys.join(", ");
        let values: Vec<&str> = self.columns.iter().map(|(_, value)| *value).collect();
        let places = (1..=self.keys.len()).map(|place| format!("?{place}")).collect::<Vec<_>>().join(", ");
        let after = goes_on.then(|| format!("({keys}) > ({places})"));
        let only: Vec<String> = after.into_iter().chain(self.only.map(str::to_owned)).collect();
        let only = if only.is_empty() { String::new() } else { format!(" WHERE {}", only.join(" AND ")) };
        let limit = if goes_on { self.keys.len() + 1 } else { 1 };
        format!(
            "SELECT {keys}, {} FROM {}{only} ORDER BY {keys} LIMIT ?{limit}",
            values.join(", "),
            self.from
        )
    }
}

/// The number that the file's own chain has among processes; it is over.
pub(crate) const REPLICA: i64 = 1;

/// In the order in which they are copied.
pub(crate) const TABLES: [Table; 32] = [
    Table {
        name: "entry",
        keys: &["e.row"],
        from: "entry e",
        only: None,
        columns: &[
            ("row", "e.row"),
            ("slot", "0"),
            ("action", "action_of(e.bytes)"),
            ("bytes", "e.bytes"),
            ("record", "e.record"),
        ],
    },
    Table {
        name: "claim",
        keys: &["a.row"],
        from: "action a",
        only: Some("a.slot IS NOT NULL"),
        columns: &[
            ("tenant", "a.tenant"),
            ("digest", "claim_of(a.tenant, a.environment, a.subject, a.key)"),
            ("action", "a.id"),
        ],
    },
    Table {
        name: "action",
        keys: &["a.row"],
        from: "action a LEFT JOIN deletion d ON d.action = a.row LEFT JOIN erasure x ON x.action = a.row",
        only: None,
        columns: &[
            ("tenant", "a.tenant"),
            ("id", "a.id"),
            ("row", "a.row"),
            ("environment", "a.environment"),
            ("subject", "a.subject"),
            ("key", "a.key"),
            (
                "claim",
                "CASE WHEN a.slot IS NOT NULL THEN claim_of(a.tenant, a.environment, a.subject, a.key) END",
            ),
            ("request_hash", "a.request_hash"),
            ("archetype", "a.archetype"),
            ("principal", "a.principal"),
            ("mandates", "a.mandates"),
            ("effect", "a.effect"),
            ("at", "a.at"),
            ("claimed", "coalesce(a.resumed, a.at)"),
            ("expires", "a.expires"),
            ("round", "coalesce(a.round, 0)"),
            ("needed", "coalesce(a.needed, 0)"),
            ("currency", "a.currency"),
            ("session", "a.session"),
            ("verb", "a.verb"),
            ("target", "a.target"),
            ("level", "a.level"),
            ("regulations", "a.regulations"),
            ("refs", "a.refs"),
            ("erase_after", "d.after"),
            ("erased", "x.entry"),
            ("entry", "a.entry"),
            ("payload", "a.payload"),
        ],
    },
    Table {
        name: "fate",
        keys: &["f.row"],
        from: "fate f LEFT JOIN action a ON a.row = f.row",
        only: None,
        columns: &[
            ("id", "a.id"),
            ("tenant", "a.tenant"),
            ("row", "f.row"),
            ("state", "f.state"),
            ("debit", "f.debit"),
            ("outcome", "(SELECT o.entry FROM outcome o WHERE o.row = f.outcome)"),
            ("reply", "(SELECT o.entry FROM outcome o WHERE o.row = f.reply)"),
            ("token", "f.token"),
            // Whoever had it in hand is gone.
            ("owner", "CASE WHEN f.owner IS NOT NULL THEN 1 END"),
            ("until", "f.until"),
            ("moved", "f.moved"),
        ],
    },
    Table {
        name: "outcome",
        keys: &["o.row"],
        from: "outcome o LEFT JOIN action a ON a.row = o.action",
        only: None,
        columns: &[
            ("action", "a.id"),
            ("entry", "o.entry"),
            ("tenant", "a.tenant"),
            ("previous", "(SELECT b.entry FROM outcome b WHERE b.row = o.previous)"),
            ("state", "o.state"),
            ("at", "o.at"),
            ("status", "o.status"),
            ("body", "o.body"),
            ("receipt_id", "o.receipt_id"),
            ("short", "o.short"),
            ("short_tag", "address_of(o.short)"),
            ("signature", "o.signature"),
            ("signature_tag", "address_of(o.signature)"),
            ("document", "o.document"),
            ("payload", "o.payload"),
        ],
    },
    Table {
        name: "approval",
        keys: &["p.row"],
        from: "approval p LEFT JOIN action a ON a.row = p.action",
        only: None,
        columns: &[
            ("action", "a.id"),
            ("round", "p.round"),
            ("approver", "p.approver"),
            ("at", "p.at"),
            ("entry", "p.entry"),
            ("record", "p.record"),
        ],
    },
    Table {
        name: "usage",
        keys: &["u.action"],
        from: "usage u LEFT JOIN action a ON a.row = u.action",
        only: None,
        columns: &[
            ("action", "a.id"),
            ("seconds", "u.seconds"),
            ("compute", "u.compute"),
            ("memory", "u.memory"),
            ("storage", "u.storage"),
            ("egress", "u.egress"),
        ],
    },
    Table {
        name: "cycle",
        keys: &["c.action"],
        from: "cycle c LEFT JOIN action a ON a.row = c.action LEFT JOIN entry e ON e.row = a.entry",
        only: None,
        columns: &[
            ("action", "a.id"),
            ("tenant", "a.tenant"),
            ("session", "c.session"),
            ("sequence", "c.sequence"),
            ("intent", "c.intent"),
            ("first", "name_of(e.bytes)"),
            ("last", "c.last"),
        ],
    },
    Table {
        name: "account",
        keys: &["k.key"],
        from: "account k LEFT JOIN temp.holder h ON h.key = k.key",
        only: None,
        columns: &[
            ("tenant", "h.tenant"),
            ("key", "k.key"),
            ("jti", "h.jti"),
            ("epoch", "k.epoch"),
            ("spent", "k.spent"),
            ("actions", "k.actions"),
            ("revoked", "k.revoked"),
            ("frozen", "k.frozen"),
            ("seconds", "k.seconds"),
            ("compute", "k.compute"),
            ("memory", "k.memory"),
            ("storage", "k.storage"),
            ("egress", "k.egress"),
            ("granted", "k.granted"),
            ("granted_compute", "k.granted_compute"),
            ("granted_storage", "k.granted_storage"),
            ("granted_egress", "k.granted_egress"),
        ],
    },
    Table {
        name: "mandate",
        keys: &["m.row"],
        from: "mandate m",
        only: None,
        columns: &[
            ("tenant", "m.tenant"),
            ("jti", "m.jti"),
            ("row", "m.row"),
            ("account", "m.account"),
            ("subject", "m.subject"),
            ("issuer", "m.issuer"),
            ("issued", "m.issued"),
            ("expires", "m.expires"),
            ("claims", "m.claims"),
            ("chain", "m.chain"),
            ("kid", "m.kid"),
        ],
    },
    Table {
        name: "series",
        keys: &["h.key", "h.tenant"],
        from: "temp.history h LEFT JOIN series s ON s.key = h.key",
        // Those of actions that were judged anew and count elsewhere may never have been kept.
        only: Some("coalesce(h.bytes, s.bytes) IS NOT NULL"),
        columns: &[("tenant", "h.tenant"), ("key", "h.key"), ("bytes", "coalesce(h.bytes, s.bytes)")],
    },
    Table {
        name: "seen",
        keys: &["s.mark", "t.tenant"],
        // Whose a mark is stands in its hash alone, so that all have it; nobody asks for another's.
        from: "seen s CROSS JOIN temp.tenant t",
        only: None,
        columns: &[("tenant", "t.tenant"), ("mark", "s.mark")],
    },
    Table {
        name: "stop",
        keys: &["s.kind", "s.tenant", "s.name"],
        from: "freeze s",
        only: None,
        columns: &[
            ("kind", "s.kind"),
            ("tenant", "s.tenant"),
            ("name", "s.name"),
            ("include_rollback", "s.include_rollback"),
            ("at", "s.at"),
            ("by", "s.by"),
            ("reason", "s.reason"),
        ],
    },
    Table {
        name: "principal_key",
        keys: &["k.row"],
        from: "principal_key k",
        only: None,
        columns: &[
            ("tenant", "k.tenant"),
            ("issuer", "k.issuer"),
            ("kid", "k.kid"),
            ("row", "k.row"),
            ("jwk", "k.jwk"),
            ("created", "k.created"),
            ("created_by", "k.created_by"),
            ("revoked", "k.revoked"),
        ],
    },
    Table {
        name: "api_key",
        keys: &["k.row"],
        from: "api_key k",
        only: None,
        columns: &[
            ("hash", "k.hash"),
            ("id", "k.id"),
            ("row", "k.row"),
            ("tenant", "k.tenant"),
            ("subject", "k.subject"),
            ("role", "k.role"),
            ("default_mandate", "k.default_mandate"),
            ("created", "k.created"),
            ("created_by", "k.created_by"),
            ("revoked", "k.revoked"),
        ],
    },
    Table {
        name: "passkey",
        keys: &["k.row"],
        from: "passkey k",
        only: None,
        columns: &[
            ("id", "k.id"),
            ("tenant", "k.tenant"),
            ("credential", "k.credential"),
            ("registered", "k.registered"),
            ("enrolled", "k.enrolled"),
            ("revoked", "k.revoked"),
        ],
    },
    Table {
        name: "tenant_key",
        keys: &["k.tenant"],
        from: "tenant_key k",
        only: None,
        columns: &[("tenant", "k.tenant"), ("wrapped", "k.wrapped")],
    },
    Table {
        name: "kept",
        keys: &["k.digest"],
        from: "kept k",
        only: None,
        columns: &[("digest", "k.digest"), ("text", "k.text")],
    },
    Table {
        name: "delivery",
        keys: &["d.alike"],
        from: "delivery d",
        only: None,
        columns: &[("alike", "d.alike"), ("times", "d.times")],
    },
    Table {
        name: "session",
        keys: &["s.key"],
        from: "session s LEFT JOIN meta r ON r.name = 'recovering/' || s.key",
        only: None,
        columns: &[
            ("tenant", "s.tenant"),
            ("key", "s.key"),
            ("id", "s.id"),
            ("subject", "s.subject"),
            ("mandate", "s.mandate"),
            ("opened", "s.opened"),
            ("epoch", "s.epoch"),
            ("sequence", "s.sequence"),
            ("next", "s.next"),
            ("held", "s.held"),
            ("in_flight", "s.in_flight"),
            ("denials", "s.denials"),
            ("cycles", "s.cycles"),
            ("blocked", "s.blocked"),
            ("suspended", "s.suspended"),
            ("closed", "s.closed"),
            ("halt", "s.halt"),
            ("limit_minor", "s.limit_minor"),
            ("limit_currency", "s.limit_currency"),
            ("limit_until", "s.limit_until"),
            ("limited", "s.limited"),
            ("recovering", "r.value"),
            ("opening", "s.opening"),
            ("entry", "s.entry"),
            ("payload", "s.payload"),
        ],
    },
    Table {
        name: "record",
        keys: &["r.session", "r.seq"],
        from: "record r LEFT JOIN session s ON s.key = r.session",
        only: None,
        columns: &[("tenant", "s.tenant"), ("session", "r.session"), ("seq", "r.seq"), ("entry", "r.entry")],
    },
    Table {
        name: "declaration",
        keys: &["d.session", "d.intent"],
        from: "declaration d",
        only: None,
        columns: &[
            ("tenant", "d.tenant"),
            ("mandate", "d.mandate"),
            ("intent", "d.intent"),
            ("session", "d.session"),
            ("id", "d.id"),
            ("entry", "d.entry"),
        ],
    },
    Table {
        name: "security_event",
        keys: &["e.tenant", "e.issuer", "e.jti"],
        from: "security_event e",
        only: None,
        columns: &[
            ("tenant", "e.tenant"),
            ("issuer", "e.issuer"),
            ("jti", "e.jti"),
            ("hash", "e.hash"),
            ("id", "e.id"),
        ],
    },
    Table {
        name: "cluster",
        keys: &["c.key"],
        from: "cluster c",
        only: None,
        columns: &[
            ("tenant", "c.tenant"),
            ("id", "c.id"),
            ("deadline", "c.deadline"),
            ("held", "c.held"),
            ("terminated", "c.terminated"),
            ("formed", "c.formed"),
            ("opening", "c.opening"),
            ("entry", "c.entry"),
        ],
    },
    Table {
        name: "member",
        keys: &["m.cluster", "m.place"],
        from: "member m LEFT JOIN cluster c ON c.key = m.cluster",
        only: None,
        columns: &[
            ("tenant", "c.tenant"),
            ("cluster", "c.id"),
            ("place", "m.place"),
            ("session", "m.id"),
            ("session_key", "m.session"),
            ("mandate", "m.mandate"),
            ("principal", "m.principal"),
            ("waits", "m.waits"),
        ],
    },
    Table {
        name: "pruning",
        keys: &["p.entry"],
        from: "pruning p",
        only: None,
        columns: &[("entry", "p.entry")],
    },
    Table {
        name: "destination",
        keys: &["d.name"],
        from: "destination d",
        only: None,
        columns: &[("name", "d.name"), ("entry", "d.entry")],
    },
    Table {
        name: "notice",
        keys: &["n.destination", "n.entry"],
        from: "notice n",
        only: None,
        columns: &[
            ("destination", "n.destination"),
            ("entry", "n.entry"),
            ("about", "n.action"),
            // Of what is no action its entry stands there, which is shorter than an id.
            ("action", "CASE WHEN length(n.action) = 16 THEN n.action END"),
            ("taken", "n.taken"),
            ("tries", "n.tries"),
            ("next", "n.next"),
        ],
    },
    Table {
        name: "log",
        keys: &["l.tenant"],
        from: "log l",
        only: None,
        columns: &[("tenant", "l.tenant"), ("size", "l.size"), ("root", "l.root")],
    },
    Table {
        name: "log_name",
        keys: &["l.tenant"],
        from: "log_name l",
        only: None,
        columns: &[("tenant", "l.tenant"), ("name", "l.name")],
    },
    Table {
        name: "log_tile",
        keys: &["l.tenant", "l.level", "l.number"],
        from: "log_tile l",
        only: None,
        columns: &[
            ("tenant", "l.tenant"),
            ("level", "l.level"),
            ("number", "l.number"),
            ("hashes", "l.hashes"),
        ],
    },
    Table {
        name: "log_leaf",
        keys: &["l.tenant", "l.first"],
        from: "log_leaf l",
        only: None,
        columns: &[
            ("tenant", "l.tenant"),
            ("first", "l.first"),
            ("entry", "l.entry"),
            ("leaves", "l.leaves"),
        ],
    },
];

/// Tables and columns of the file that nothing is made of, and why.
#[cfg(test)]
pub(crate) const LEFT: &[(&str, &str)] = &[
    ("address", "an index of receipts, which columns of `outcome` are"),
    ("effect", "an index of actions, which a column of `action` is"),
    ("action.resumed_row", "says where in that index"),
    ("audit_slice", "an index of the trail; a database searches the rows"),
    ("audit_term", "as above"),
    ("repeat", "how often a refusal was repeated, which nobody reads"),
    ("cluster.key", "a hash of tenant and id, by which clusters are known here"),
    ("deletion.due", "the sum of two columns of `action`"),
    ("passkey.row", "they are in the order of their entries"),
    ("approval.row", "as above"),
    ("refinery_schema_history", "what was done to the file"),
];

/// Tables of a database that are made there, and by what.
#[cfg(test)]
pub(crate) const MADE: &[(&str, &str)] = &[
    ("gate", "rows to lock, made with the schema"),
    ("guard", "rows to lock, made when they are needed"),
    ("replica", "one row: the file's last chain, ended, on which the next one follows"),
    ("logged", "one row, made with the schema: the mark `logged` of the file's `meta`"),
    (
        "aside",
        "what waits for clients at one gateway and may be answered at another: nobody else is in a file",
    ),
    ("observed", "tenants that are only observed: a gateway on a file keeps that for as long as it runs"),
    ("destination.seen", "as if a gateway had just told it"),
    ("notice.teller", "nobody tells it just now"),
    ("notice.until", "as above"),
    ("store_copy", "says that a copy is under way, or was done"),
    ("table_copy", "how far each table has come"),
    ("refinery_schema_history", "what was done to the schema"),
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;
    use std::sync::{Arc, Mutex};

    use rusqlite::Connection;
    use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

    use super::*;
    use crate::sqlite::copy::Source;
    use crate::{Options, Sqlite};

    type Columns = BTreeSet<(String, String)>;

    fn names(listed: &[(&'static str, &str)]) -> BTreeSet<&'static str> {
        listed.iter().map(|(name, why)| (!why.is_empty()).then_some(*name).unwrap()).collect()
    }

    fn is_named(names: &BTreeSet<&str>, (table, column): &(String, String)) -> bool {
        names.contains(&**table) || names.contains(&*format!("{table}.{column}"))
    }

    fn columns_of(file: &Path) -> Columns {
        let db = Connection::open(file).unwrap();
        let sql = "SELECT m.name, c.name FROM sqlite_schema m JOIN pragma_table_info(m.name) c WHERE m.type = 'table'";
        let mut select = db.prepare(sql).unwrap();
        let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.map(Result::unwrap).collect()
    }

    /// All that is read of a file, as SQLite itself tells it.
    fn read_of(file: &Path) -> Columns {
        let read = Arc::new(Mutex::new(Columns::new()));
        let db = Connection::open(file).unwrap();
        let into = Arc::clone(&read);
        let note = move |context: AuthContext<'_>| {
            if let AuthAction::Read { table_name, column_name } = context.action
                && context.database_name == Some("main")
            {
                into.lock().unwrap().insert((table_name.to_owned(), column_name.to_owned()));
            }
            Authorization::Allow
        };
        db.authorizer(Some(note)).unwrap();
        let source = Source::of(db, &[]).unwrap();
        for table in &TABLES {
            source.read(table, None, 1).unwrap();
        }
        drop(source);
        Arc::try_unwrap(read).unwrap().into_inner().unwrap()
    }

    #[test]
    fn every_column_of_the_file_is_copied_or_named_as_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ledger.db");
        drop(Sqlite::open(&file, Options::new("chain", 1)).unwrap());
        let (all, read, left) = (columns_of(&file), read_of(&file), names(LEFT));
        let missed: Vec<_> = all.iter().filter(|it| !read.contains(it) && !is_named(&left, it)).collect();
        assert!(missed.is_empty(), "neither copied nor named in LEFT: {missed:?}");
        let stale = |name: &&&str| !all.iter().any(|it| is_named(&BTreeSet::from([**name]), it));
        assert_eq!(left.iter().filter(stale).collect::<Vec<_>>(), [&""; 0], "LEFT names what is not there");
    }

    /// Every column of a database, read off the migrations.
    fn made() -> Columns {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/postgres/migrations");
        let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        let mut columns = Columns::new();
        for file in files {
            let text = fs::read_to_string(&file).unwrap();
            let lines = text.lines().map(|line| line.split("--").next().unwrap()).collect::<Vec<_>>();
            for statement in lines.join("\n").split(';') {
                let words: Vec<&str> = statement.split_whitespace().collect();
                match words[..] {
                    ["CREATE", "TABLE", _, "PARTITION", ..] | [] => {}
                    ["CREATE", "TABLE", "IF", "NOT", "EXISTS", table, ..]
                    | ["CREATE", "TABLE", table, ..]
                    | ["CREATE", "UNLOGGED", "TABLE", table, ..] => {
                        let inner = statement.split_once('(').unwrap().1;
                        let columns_of =
                            inner.lines().map(str::trim).filter_map(|line| line.split(' ').next());
                        let is_one = |name: &&str| name.starts_with(|it: char| it.is_ascii_lowercase());
                        columns.extend(
                            columns_of.filter(is_one).map(|name| (table.to_owned(), name.to_owned())),
                        );
                    }
                    ["ALTER", "TABLE", table, "ADD", "COLUMN", column, ..] => {
                        columns.insert((table.to_owned(), column.to_owned()));
                    }
                    ["CREATE", "INDEX" | "UNIQUE", ..] | ["INSERT", ..] => {}
                    _ => panic!("{}: `{statement}` is not understood here", file.display()),
                }
            }
        }
        columns
    }

    #[test]
    fn every_column_of_a_database_is_filled_or_named_as_made_there() {
        let (all, made) = (made(), names(MADE));
        let filled: Columns = TABLES
            .iter()
            .flat_map(|table| {
                table.columns.iter().map(|(name, _)| (table.name.to_owned(), (*name).to_owned()))
            })
            .collect();
        let missed: Vec<_> = all.iter().filter(|it| !filled.contains(it) && !is_named(&made, it)).collect();
        assert!(missed.is_empty(), "neither filled nor named in MADE: {missed:?}");
        assert_eq!(filled.difference(&all).collect::<Vec<_>>(), Vec::<&(String, String)>::new());
    }

    #[test]
    fn the_page_for_operators_names_every_table() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/moving.md");
        let page = fs::read_to_string(page).unwrap();
        let named = LEFT.iter().chain(MADE).map(|(name, _)| *name).filter(|name| !name.contains('.'));
        let all = TABLES.iter().map(|table| table.name).chain(named);
        for name in all {
            assert!(page.contains(&format!("`{name}`")), "docs/moving.md does not name `{name}`");
        }
    }
}
