//! Receipts by the million: one reader, a worker per core, results told in the order of the lines.
//!
//! Memory is bounded by blocks in flight, however long the file and however long one of its lines.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use receipt::{MAX_BYTES, Report, Trust, Verdict};

use super::Tally;
use crate::error::{Context, Error, Result};

/// What came of one block of lines.
pub(crate) struct Batch {
    /// Bytes read for it.
    pub(crate) bytes: u64,
    pub(crate) tally: Tally,
    /// Lines that did not verify, by number from 1.
    pub(crate) failed: Vec<(u64, Report)>,
}

/// Verifies every line that is not blank; `told` gets the batches in order and may end it all with an error.
///
/// # Errors
/// What `told` returns, or that reading failed.
pub(crate) fn verify(
    input: impl Read + Send,
    trust: &Trust<'_>,
    mut told: impl FnMut(Batch) -> Result<()>,
) -> Result<()> {
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let (to_workers, blocks) = sync_channel::<Block>(workers * 2);
    let (to_teller, batches) = sync_channel::<(usize, Batch)>(workers * 2);
    let blocks = Mutex::new(blocks);
    thread::scope(|scope| {
        let reading = scope.spawn(move || Blocks::new(input).send(&to_workers));
        for _ in 0..workers {
            let (blocks, to_teller) = (&blocks, to_teller.clone());
            scope.spawn(move || work(blocks, &to_teller, trust));
        }
        drop(to_teller);
        let result = in_order(&batches, &mut told);
        // Whoever still waits to hand something over must not wait for ever.
        drop(batches);
        if result.is_err() {
            drain(&blocks);
        }
        let read = reading.join().unwrap_or_else(|_| Err(Error::new("reading broke off")));
        result.and(read)
    })
}

/// Whole lines, numbered.
struct Block {
    index: usize,
    first_line: u64,
    text: Vec<u8>,
    /// The line after `text` was longer than a receipt may be, and is not kept.
    overlong: bool,
    bytes: u64,
}

fn work(blocks: &Mutex<Receiver<Block>>, teller: &SyncSender<(usize, Batch)>, trust: &Trust<'_>) {
    loop {
        let next = blocks.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(block) = next else { return };
        if teller.send((block.index, judge(&block, trust))).is_err() {
            return;
        }
    }
}

fn judge(block: &Block, trust: &Trust<'_>) -> Batch {
    let mut batch = Batch { bytes: block.bytes, tally: Tally::default(), failed: Vec::new() };
    let mut number = block.first_line;
    let mut judge = |text: &[u8], number: u64| {
        let report = receipt::verify(text, trust);
        batch.tally.count(&report.verdict);
        if report.verdict != Verdict::Valid {
            batch.failed.push((number, report));
        }
    };
    let lines = block.text.strip_suffix(b"\n").unwrap_or(&block.text);
    if !block.text.is_empty() {
        for line in lines.split(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if !line.trim_ascii().is_empty() {
                judge(line, number);
            }
            number += 1;
        }
    }
    if block.overlong {
        // Any text of this length is answered the same.
        judge(&vec![b' '; MAX_BYTES + 1], number);
    }
    batch
}

fn in_order(batches: &Receiver<(usize, Batch)>, told: &mut impl FnMut(Batch) -> Result<()>) -> Result<()> {
    let mut early = BTreeMap::new();
    let mut next = 0;
    for (index, batch) in batches {
        early.insert(index, batch);
        while let Some(batch) = early.remove(&next) {
            told(batch)?;
            next += 1;
        }
    }
    Ok(())
}

fn drain(blocks: &Mutex<Receiver<Block>>) {
    let blocks = blocks.lock().unwrap_or_else(PoisonError::into_inner);
    blocks.iter().for_each(drop);
}

/// Cuts a stream into blocks at line ends.
struct Blocks<R> {
    input: R,
    /// What was read and is not yet handed on.
    held: Vec<u8>,
    index: usize,
    line: u64,
    /// Bytes read since the last block.
    bytes: u64,
    ended: bool,
}

impl<R: Read> Blocks<R> {
    fn new(input: R) -> Blocks<R> {
        Blocks { input, held: Vec::new(), index: 0, line: 1, bytes: 0, ended: false }
    }

    fn send(mut self, workers: &SyncSender<Block>) -> Result<()> {
        while let Some(block) = self.next()? {
            if workers.send(block).is_err() {
                break;
            }
        }
        Ok(())
    }

    fn next(&mut self) -> Result<Option<Block>> {
        loop {
            if self.ended {
                let rest = std::mem::take(&mut self.held);
                return Ok((!rest.is_empty()).then(|| self.block(rest, false)));
            }
            let searched = self.held.len();
            self.fill()?;
            let end =
                self.held[searched..].iter().rposition(|byte| *byte == b'\n').map(|at| searched + at + 1);
            if let Some(end) = end {
                let rest = self.held.split_off(end);
                let text = std::mem::replace(&mut self.held, rest);
                return Ok(Some(self.block(text, false)));
            }
            if self.held.len() > MAX_BYTES {
                self.held.clear();
                self.skip_line()?;
                return Ok(Some(self.block(Vec::new(), true)));
            }
        }
    }

    fn fill(&mut self) -> Result<()> {
        let taken = self.input.by_ref().take(BLOCK).read_to_end(&mut self.held);
        let taken = taken.while_we(|| "reading broke off".to_owned())?;
        self.bytes += taken as u64;
        self.ended = taken == 0;
        Ok(())
    }

    fn skip_line(&mut self) -> Result<()> {
        while !self.ended {
            self.fill()?;
            if let Some(end) = self.held.iter().position(|byte| *byte == b'\n') {
                self.held.drain(..=end);
                return Ok(());
            }
            self.held.clear();
        }
        Ok(())
    }

    fn block(&mut self, text: Vec<u8>, overlong: bool) -> Block {
        let lines = text.iter().filter(|byte| **byte == b'\n').count() as u64 + u64::from(overlong);
        let block = Block { index: self.index, first_line: self.line, text, overlong, bytes: self.bytes };
        self.index += 1;
        self.line += lines;
        self.bytes = 0;
        block
    }
}

const BLOCK: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(text: &[u8]) -> Vec<(u64, Vec<u8>, bool)> {
        let mut blocks = Blocks::new(text);
        let mut all = Vec::new();
        while let Some(block) = blocks.next().expect("a slice can be read") {
            all.push((block.first_line, block.text, block.overlong));
        }
        all
    }

    #[test]
    fn lines_keep_their_numbers_across_blocks() {
        let line = vec![b'x'; 700_000];
        let text = [&line[..], b"\n", &line, b"\n", &line, b"\nlast"].concat();
        let found = blocks(&text);
        let firsts: Vec<u64> = found.iter().map(|(first, ..)| *first).collect();
        assert_eq!(firsts, [1, 2, 3, 4].map(|n| n)[..found.len()], "one line ends in each block");
        let whole: Vec<u8> = found.iter().flat_map(|(_, text, _)| text.clone()).collect();
        assert_eq!(whole, text, "no byte is lost");
    }

    #[test]
    fn a_line_longer_than_any_receipt_is_counted_and_not_kept() {
        let text = [&b"one\n"[..], &vec![b'x'; 9 << 20], b"\nthree\n"].concat();
        let found = blocks(&text);
        assert!(found.iter().all(|(_, text, _)| text.len() <= MAX_BYTES + (1 << 20)));
        assert_eq!(found.iter().filter(|(.., overlong)| *overlong).count(), 1);
        let (first, text, _) = found.last().expect("there is a third line");
        assert_eq!((*first, text.as_slice()), (3, &b"three\n"[..]));
    }
}
