//! Receipts by the million: a worker per core, results told in the order of the lines.
//!
//! The workers take turns at reading, each into the buffer it then works on, so text is handed to nobody and memory
//! stays in use. It is bounded by a block for each worker, however long the file and however long one of its lines.

use std::collections::BTreeMap;
use std::io::{BufRead, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use receipt::{MAX_BYTES, Report, Trust, Verdict};

use super::Tally;
use crate::error::{Context, Result};

/// What came of one block of lines.
pub(crate) struct Batch {
    /// Bytes read for it.
    pub(crate) bytes: u64,
    pub(crate) tally: Tally,
    /// Lines that did not verify, by number from 1.
    pub(crate) failed: Vec<(u64, Report)>,
    lines: u64,
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
    let (to_teller, batches) = sync_channel(workers * 2);
    let blocks = Mutex::new(Blocks::new(input));
    thread::scope(|scope| {
        for _ in 0..workers {
            let (blocks, to_teller) = (&blocks, to_teller.clone());
            scope.spawn(move || work(blocks, &to_teller, trust));
        }
        drop(to_teller);
        in_order(batches, &mut told)
    })
}

/// Whole lines.
struct Block {
    text: Vec<u8>,
    /// The line after `text` was longer than a receipt may be, and is not kept.
    overlong: bool,
    bytes: u64,
}

/// What came of the block of that number.
type Numbered = (usize, Result<Batch>);

fn work<R: Read>(blocks: &Mutex<Blocks<R>>, teller: &SyncSender<Numbered>, trust: &Trust<'_>) {
    let mut buffer = Vec::new();
    loop {
        let next = blocks.lock().unwrap_or_else(PoisonError::into_inner).next(buffer);
        let Some((index, block)) = next else { return };
        let (batch, used) = match block {
            Ok(block) => (Ok(judge(&block, trust)), block.text),
            Err(error) => (Err(error), Vec::new()),
        };
        buffer = used;
        if teller.send((index, batch)).is_err() {
            return;
        }
    }
}

/// Lines that fail are numbered from 0 here.
fn judge(block: &Block, trust: &Trust<'_>) -> Batch {
    let mut batch = Batch { bytes: block.bytes, tally: Tally::default(), failed: Vec::new(), lines: 0 };
    let mut rest = block.text.as_slice();
    while !rest.is_empty() {
        let line = next_line(&mut rest);
        if !line.trim_ascii().is_empty() {
            batch.add(receipt::verify(line, trust));
        }
        batch.lines += 1;
    }
    if block.overlong {
        // Any text of this length is answered the same.
        batch.add(receipt::verify(&vec![b' '; MAX_BYTES + 1], trust));
        batch.lines += 1;
    }
    batch
}

impl Batch {
    fn add(&mut self, report: Report) {
        self.tally.count(&report);
        if report.verdict != Verdict::Valid {
            self.failed.push((self.lines, report));
        }
    }
}

/// Takes a line off, without its end.
fn next_line<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let text = *rest;
    // Unlike `split`, this looks for the end many bytes at a time. From a slice, reading does not fail.
    let length = rest.skip_until(b'\n').unwrap_or(text.len());
    let line = &text[..length];
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// When this returns, the receiver is gone, and whoever still has something to hand over does not wait for ever.
fn in_order(batches: Receiver<Numbered>, told: &mut impl FnMut(Batch) -> Result<()>) -> Result<()> {
    let mut early = BTreeMap::new();
    let (mut next, mut line) = (0, 1);
    for (index, batch) in batches {
        early.insert(index, batch);
        while let Some(batch) = early.remove(&next) {
            let mut batch = batch?;
            batch.failed.iter_mut().for_each(|(number, _)| *number += line);
            next += 1;
            line += batch.lines;
            told(batch)?;
        }
    }
    Ok(())
}

/// Cuts a stream into blocks at line ends.
struct Blocks<R> {
    input: R,
    /// What was read and belongs to no block yet.
    held: Vec<u8>,
    index: usize,
    /// Bytes read since the last block.
    bytes: u64,
    ended: bool,
}

impl<R: Read> Blocks<R> {
    fn new(input: R) -> Blocks<R> {
        Blocks { input, held: Vec::new(), index: 0, bytes: 0, ended: false }
    }

    /// The next block and its number; after a failure there is none. `buffer` is used for the text.
    fn next(&mut self, buffer: Vec<u8>) -> Option<(usize, Result<Block>)> {
        let block = self.cut(buffer).inspect_err(|_| self.ended = true).transpose()?;
        let index = self.index;
        self.index += 1;
        Some((index, block))
    }

    fn cut(&mut self, mut text: Vec<u8>) -> Result<Option<Block>> {
        text.clear();
        text.append(&mut self.held);
        // After an overlong line, what is held may hold whole lines.
        let mut searched = 0;
        while !self.ended {
            self.fill(&mut text)?;
            if let Some(end) = text[searched..].iter().rposition(|byte| *byte == b'\n') {
                self.held.extend_from_slice(&text[searched + end + 1..]);
                text.truncate(searched + end + 1);
                return Ok(Some(self.block(text, false)));
            }
            if text.len() > MAX_BYTES {
                text.clear();
                self.skip_line()?;
                return Ok(Some(self.block(text, true)));
            }
            searched = text.len();
        }
        Ok((!text.is_empty()).then(|| self.block(text, false)))
    }

    fn fill(&mut self, text: &mut Vec<u8>) -> Result<()> {
        text.reserve(BLOCK);
        let taken = self.input.by_ref().take(BLOCK as u64).read_to_end(text);
        let taken = taken.while_we(|| "reading broke off".to_owned())?;
        self.bytes += taken as u64;
        self.ended = taken == 0;
        Ok(())
    }

    fn skip_line(&mut self) -> Result<()> {
        let mut text = Vec::new();
        while !self.ended {
            self.fill(&mut text)?;
            if let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                self.held = text.split_off(end + 1);
                return Ok(());
            }
            text.clear();
        }
        Ok(())
    }

    fn block(&mut self, text: Vec<u8>, overlong: bool) -> Block {
        Block { text, overlong, bytes: std::mem::take(&mut self.bytes) }
    }
}

/// Some fifty receipts: enough that taking turns costs nothing, and they stay in the core's cache.
const BLOCK: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use receipt::{Jwks, Pin};

    use super::*;

    /// Text and overlong line of each block.
    fn blocks(text: &[u8]) -> Vec<(Vec<u8>, bool)> {
        let mut blocks = Blocks::new(text);
        let mut all = Vec::new();
        while let Some((index, block)) = blocks.next(b"whatever was in the buffer".to_vec()) {
            let block = block.expect("a slice can be read");
            assert_eq!(index, all.len());
            all.push((block.text, block.overlong));
        }
        all
    }

    /// Numbers of the lines that are refused, which is all that are not blank, and how it ended.
    fn refused(input: impl Read + Send) -> (Vec<u64>, Result<()>) {
        let jwks = Jwks::new(Vec::new()).expect("an empty key set");
        let pin = Pin::new("https://gateway.example", &jwks);
        let mut numbers = Vec::new();
        let ended = verify(input, &Trust::new(&pin, &jwks), |batch| {
            assert_eq!(batch.tally.total(), batch.failed.len() as u64);
            numbers.extend(batch.failed.iter().map(|(number, _)| *number));
            Ok(())
        });
        (numbers, ended)
    }

    #[test]
    fn lines_keep_their_bytes_and_numbers_across_blocks() {
        let line = vec![b'x'; 700_000];
        let text = [&line[..], b"\n", &line, b"\r\n\n \n", &line, b"\nlast"].concat();
        let found = blocks(&text);
        assert!(found.len() > 1, "lines of this length are in blocks of their own");
        let whole: Vec<u8> = found.iter().flat_map(|(text, _)| text.clone()).collect();
        assert_eq!(whole, text, "no byte is lost");
        assert_eq!(refused(text.as_slice()).0, [1, 2, 5, 6]);
    }

    #[test]
    fn a_block_that_takes_long_is_told_before_quick_ones_after_it() {
        let count = BLOCK as u64 / 10;
        let blank = vec![b'\n'; 4 * BLOCK];
        let text = ["not a receipt\n".repeat(BLOCK / 10).as_bytes(), &blank, b"last"].concat();
        let last = count + blank.len() as u64 + 1;
        assert!(refused(text.as_slice()).0.into_iter().eq((1..=count).chain([last])));
    }

    #[test]
    fn a_line_longer_than_any_receipt_is_counted_and_not_kept() {
        let text = [&b"one\n"[..], &vec![b'x'; 9 << 20], b"\nthree\n"].concat();
        let found = blocks(&text);
        assert!(found.iter().all(|(text, _)| text.len() <= MAX_BYTES + BLOCK));
        assert_eq!(found.iter().filter(|(_, overlong)| *overlong).count(), 1);
        assert_eq!(found.last().expect("there is a third line").0, b"three\n");
        assert_eq!(refused(text.as_slice()).0, [1, 2, 3]);
    }

    #[test]
    fn lines_between_two_overlong_ones_are_neither_lost_nor_misnumbered() {
        let long = vec![b'x'; 9 << 20];
        let text = [&long[..], b"\nthree\nfour\n", &long, b"\nsix"].concat();
        assert!(blocks(&text).iter().any(|(text, _)| text == b"three\nfour\n"), "whole lines stay whole");
        assert_eq!(refused(text.as_slice()).0, [1, 2, 3, 4, 5]);
    }

    #[test]
    fn what_was_read_before_a_failure_is_told_and_the_failure_after_it() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                Err(std::io::Error::other("the disk is gone"))
            }
        }
        let lines = "not a receipt\n".repeat(BLOCK);
        let (numbers, ended) = refused(lines.as_bytes().chain(Broken));
        assert!(!numbers.is_empty() && numbers.iter().copied().eq(1..=numbers.len() as u64));
        let error = ended.expect_err("it is told");
        assert!(error.to_string().contains("reading broke off"), "{error}");
    }
}
