//! What the disk under the data directory can do, and what lies on it afterwards.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rusqlite::{Connection, OpenFlags, params};
use serde::Serialize;

use super::client::percentile;
use super::{Effort, process, tell};
use crate::error::{Context, Result};

/// What durable writing costs at least.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Disk {
    /// 4 KB appended, then `fdatasync`; half of the times are below.
    pub(crate) append_p50_us: f64,
    pub(crate) append_p99_us: f64,
    /// Rows per second in commits of 64: by turns 700 bytes and 4 KB, each found by a hash.
    pub(crate) rows_per_second: f64,
    /// CPU of such a row, microseconds.
    pub(crate) row_cpu_us: f64,
}

impl Disk {
    pub(crate) fn measure(folder: &Path, effort: &Effort) -> Result<Disk> {
        let bar = tell::doing("floors: append and fdatasync");
        let (append_p50_us, append_p99_us) = append(&folder.join("append"), effort.rounds * 40)?;
        bar.set_message("floors: batched rows");
        let (rows_per_second, row_cpu_us) = rows(&folder.join("rows.db"), effort.rounds * 20)?;
        bar.finish_and_clear();
        Ok(Disk { append_p50_us, append_p99_us, rows_per_second, row_cpu_us })
    }
}

fn append(path: &Path, times: usize) -> Result<(f64, f64)> {
    let cannot = || format!("cannot write `{}`", path.display());
    let mut file = OpenOptions::new().create_new(true).append(true).open(path).while_we(cannot)?;
    let block = [b'x'; 4096];
    let mut took = Vec::with_capacity(times);
    for _ in 0..times {
        let begun = Instant::now();
        file.write_all(&block).while_we(cannot)?;
        file.sync_data().while_we(cannot)?;
        took.push(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    took.sort_unstable();
    fs::remove_file(path).while_we(cannot)?;
    Ok((percentile(&took, 0.5) as f64 / 1e3, percentile(&took, 0.99) as f64 / 1e3))
}

/// By turns 64 intents and 64 outcomes in one commit each: the least that an action leaves behind.
fn rows(path: &Path, commits: usize) -> Result<(f64, f64)> {
    let cannot = || format!("cannot write `{}`", path.display());
    let mut store = Connection::open(path).while_we(cannot)?;
    store.execute_batch(SCHEMA).while_we(cannot)?;
    let (intent, outcome) = (vec![b'i'; 700], vec![b'o'; 4096]);
    let (begun, cpu) = (Instant::now(), process::thread_cpu());
    for commit in 0..commits {
        let write = store.transaction().while_we(cannot)?;
        {
            let (table, bytes) = if commit % 2 == 0 { ("intent", &intent) } else { ("outcome", &outcome) };
            let insert = format!("INSERT INTO {table} (hash, bytes) VALUES (?1, ?2)");
            let mut insert = write.prepare_cached(&insert).while_we(cannot)?;
            for row in 0..BATCH {
                insert.execute(params![hash(commit * BATCH + row), bytes]).while_we(cannot)?;
            }
        }
        write.commit().while_we(cannot)?;
    }
    let cpu = process::thread_cpu().saturating_sub(cpu).as_secs_f64();
    let (count, seconds) = ((commits * BATCH) as f64, begun.elapsed().as_secs_f64());
    drop(store);
    fs::remove_file(path).while_we(cannot)?;
    Ok((count / seconds, cpu * 1e6 / count))
}

/// Spread over all 64 bits, as hashes are (the golden ratio's multiples).
fn hash(number: usize) -> i64 {
    (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) as i64
}

const BATCH: usize = 64;
const SCHEMA: &str = "
    PRAGMA page_size = 16384;
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    PRAGMA wal_autocheckpoint = 10000;
    CREATE TABLE intent (row INTEGER PRIMARY KEY, hash INTEGER NOT NULL UNIQUE, bytes BLOB NOT NULL) STRICT;
    CREATE TABLE outcome (row INTEGER PRIMARY KEY, hash INTEGER NOT NULL UNIQUE, bytes BLOB NOT NULL) STRICT;
";

/// What a gateway that has ended left in its data directory.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Left {
    pub(crate) bytes: u64,
    /// Rows of all tables of all stores.
    pub(crate) rows: u64,
}

impl Left {
    pub(crate) fn of(folder: &Path) -> Result<Left> {
        let mut left = Left::default();
        for path in files(folder)? {
            left.bytes += fs::metadata(&path).map(|found| found.len()).unwrap_or_default();
            if is_store(&path) {
                left.rows +=
                    count(&path).while_we(|| format!("cannot count the rows of `{}`", path.display()))?;
            }
        }
        Ok(left)
    }
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = fs::read_dir(folder).while_we(|| format!("cannot read `{}`", folder.display()))?;
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)?) } else { found.push(path) }
    }
    Ok(found)
}

fn is_store(path: &Path) -> bool {
    let mut head = [0; 16];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut head));
    read.is_ok() && &head == b"SQLite format 3\0"
}

fn count(path: &Path) -> rusqlite::Result<u64> {
    let store = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let mut names = store.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'")?;
    let names = names.query_map([], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
    let rows = |name: &String| {
        store.query_row(&format!("SELECT count(*) FROM \"{name}\""), [], |row| row.get::<_, i64>(0))
    };
    let counts = names.iter().map(rows).collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(counts.into_iter().sum::<i64>().unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_counted() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("inner").join("a.db");
        fs::create_dir(folder.path().join("inner")).expect("a folder");
        let store = Connection::open(&path).expect("a store");
        store.execute_batch("CREATE TABLE a (x); CREATE TABLE b (x); INSERT INTO a VALUES (1), (2); INSERT INTO b VALUES (3)").expect("rows");
        fs::write(folder.path().join("other"), [0; 100]).expect("a file");
        let left = Left::of(folder.path()).expect("it can be read");
        assert_eq!(left.rows, 3);
        assert!(left.bytes > 100);
    }

    #[test]
    fn rows_and_appends_have_a_price() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (p50, p99) = append(&folder.path().join("a"), 5).expect("it appends");
        assert!(p50 > 0.0 && p99 >= p50);
        let (rate, cpu) = rows(&folder.path().join("b"), 4).expect("it writes");
        assert!(rate > 0.0 && cpu > 0.0);
    }
}
