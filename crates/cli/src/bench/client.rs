//! The load client: a process of its own that sends prebuilt bytes and counts answers.
//!
//! It shares the machine with what it measures, so it does as little as can be: one thread, plain sockets, requests
//! made beforehand with a serial number patched in, answers read as far as status and length; those of tools are read whole
//! when the run is over. Each connection sends its next request when it has the answer to the last.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use super::load::{Answers, Outcome, Plan, Taken, Until, Word};
use super::process;
use super::sample::SERIAL;
use super::tools;
use crate::error::{Context, Error, Result};
use crate::out;

/// Reads a plan from stdin, carries it out, tells how it goes on stdout.
pub(crate) fn run() -> Result<()> {
    process::allow_many_files();
    let plan: Plan =
        serde_json::from_reader(io::stdin().lock()).while_we(|| "no plan on stdin".to_owned())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.while_we(|| "cannot start the client".to_owned())?;
    let outcome = LocalSet::new().block_on(&runtime, carry_out(&plan))?;
    say(&Word::Outcome(outcome))
}

async fn carry_out(plan: &Plan) -> Result<Outcome> {
    let run = Rc::new(Run::new(plan));
    let mut speakers = Vec::with_capacity(plan.connections);
    for connection in 0..plan.connections {
        // Each speaks as soon as it is connected: whoever connects and says nothing is sent away after a while.
        let stream = connect(plan.address).await?;
        speakers.push(tokio::task::spawn_local(Rc::clone(&run).speak(stream, connection)));
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(plan.warm_up_ms)).await;
    say(&Word::Begin)?;
    let cpu = process::own_cpu();
    let begun = run.begin();
    while !run.is_over(plan.until, begun) {
        if speakers.iter().all(tokio::task::JoinHandle::is_finished) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        if run.is_time_to_tell() {
            say(&Word::Done(run.done()))?;
        }
    }
    let seconds = run.end(begun);
    let cpu = process::own_cpu().saturating_sub(cpu);
    say(&Word::End)?;
    // Nobody is cut off in mid-answer: an action that is under way would be settled without its caller.
    let rest = async {
        for speaker in speakers {
            let _ = speaker.await;
        }
    };
    let _ = tokio::time::timeout(LONGEST_ANSWER, rest).await;
    run.check();
    run.outcome(seconds, cpu, &plan.around)
}

async fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).await.while_we(|| format!("cannot connect to {address}"))?;
    stream.set_nodelay(true).while_we(|| "cannot set up a connection".to_owned())?;
    Ok(stream)
}

fn say(word: &Word) -> Result<()> {
    out::line(serde_json::to_string(word).while_we(|| "cannot write a result".to_owned())?)
}

/// What all connections share.
struct Run {
    templates: Vec<Vec<Template>>,
    taken: Taken,
    answers: Answers,
    serial: Cell<u64>,
    measuring: Cell<bool>,
    over: Cell<bool>,
    told: Cell<Instant>,
    tally: RefCell<Tally>,
    /// Answers that nobody has read yet, and the numbers of the turns they are to.
    kept: RefCell<Vec<(u64, Box<[u8]>)>>,
}

#[derive(Default)]
struct Tally {
    /// Nanoseconds from the first byte sent to the last one read.
    latencies: Vec<u64>,
    statuses: BTreeMap<u16, u64>,
    broken: u64,
    refusal: Option<String>,
    request_bytes: usize,
    answer_bytes: usize,
}

impl Run {
    fn new(plan: &Plan) -> Run {
        Run {
            templates: plan.templates.iter().map(|turn| Template::all(turn)).collect(),
            taken: plan.taken,
            answers: plan.answers,
            serial: Cell::new(plan.first_serial),
            measuring: Cell::new(false),
            over: Cell::new(false),
            told: Cell::new(Instant::now()),
            tally: RefCell::default(),
            kept: RefCell::default(),
        }
    }

    async fn speak(self: Rc<Self>, mut stream: TcpStream, connection: usize) {
        let (mut request, mut answer) = (Vec::new(), Vec::with_capacity(32 * 1024));
        while !self.over.get() {
            let serial = self.next_serial();
            let (mut took, mut bytes) = (Duration::ZERO, 0);
            let turn = self.turn(serial, connection);
            for (left, template) in (0..turn.len()).rev().zip(turn) {
                template.write(serial, &mut request);
                bytes += request.len();
                let begun = Instant::now();
                let reply = match exchange(&mut stream, &request, &mut answer).await {
                    Ok(reply) => reply,
                    Err(error) => return self.note_broken(&error),
                };
                took += begun.elapsed();
                // What builds on a request that was refused is not sent.
                if left == 0 || !reply.is_good() {
                    self.note(took, &reply, &answer, bytes);
                    self.keep(serial, &answer[reply.body]);
                    break;
                }
            }
        }
    }

    /// Keeps an answer that is to be read when nobody is measured any more; with too many they are read at once.
    fn keep(&self, serial: u64, answer: &[u8]) {
        if self.answers == Answers::Any {
            return;
        }
        let mut kept = self.kept.borrow_mut();
        kept.push((serial, answer.into()));
        if kept.len() >= MOST_KEPT {
            drop(kept);
            self.check();
        }
    }

    /// Reads what was kept.
    fn check(&self) {
        let Answers::OfTool { with_receipt } = self.answers else { return };
        for (serial, answer) in self.kept.take() {
            let serial = String::from_utf8_lossy(&digits(serial)).into_owned();
            if let Err(wrong) = tools::must_answer(&answer, &serial, with_receipt) {
                self.note_broken(&io::Error::other(wrong));
            }
        }
    }

    fn next_serial(&self) -> u64 {
        let serial = self.serial.get();
        self.serial.set(serial + 1);
        serial
    }

    fn turn(&self, serial: u64, connection: usize) -> &[Template] {
        let number = match self.taken {
            Taken::ByAll => serial,
            Taken::ByOne => connection as u64,
        };
        &self.templates[(number % self.templates.len() as u64) as usize]
    }

    fn note(&self, took: Duration, reply: &Reply, answer: &[u8], request_bytes: usize) {
        if !self.measuring.get() {
            return;
        }
        let mut tally = self.tally.borrow_mut();
        tally.latencies.push(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        *tally.statuses.entry(reply.status).or_default() += 1;
        tally.request_bytes = request_bytes;
        tally.answer_bytes = reply.body.len();
        if reply.status != 200 && tally.refusal.is_none() {
            tally.refusal = Some(String::from_utf8_lossy(&answer[reply.body.clone()]).into_owned());
        }
    }

    fn note_broken(&self, error: &io::Error) {
        let mut tally = self.tally.borrow_mut();
        tally.broken += 1;
        tally.refusal.get_or_insert_with(|| error.to_string());
    }

    fn begin(&self) -> Instant {
        self.measuring.set(true);
        Instant::now()
    }

    fn end(&self, begun: Instant) -> f64 {
        let seconds = begun.elapsed().as_secs_f64();
        self.measuring.set(false);
        self.over.set(true);
        seconds
    }

    fn is_over(&self, until: Until, begun: Instant) -> bool {
        match until {
            Until::Millis(millis) => begun.elapsed() >= Duration::from_millis(millis),
            Until::Actions(count) => self.done() >= count,
        }
    }

    fn done(&self) -> u64 {
        self.tally.borrow().latencies.len() as u64
    }

    fn is_time_to_tell(&self) -> bool {
        let due = self.told.get().elapsed() >= Duration::from_millis(250);
        if due {
            self.told.set(Instant::now());
        }
        due
    }

    fn outcome(&self, seconds: f64, cpu: Duration, around: &[u64]) -> Result<Outcome> {
        let mut tally = self.tally.take();
        let around = around.iter().filter_map(|number| median_around(&tally.latencies, *number));
        let around_ms = around.map(|nanos| nanos as f64 / 1e6).collect();
        tally.latencies.sort_unstable();
        if tally.latencies.is_empty() {
            let why = tally.refusal.unwrap_or_else(|| "nothing was answered in time".to_owned());
            return Err(Error::new(format!("the load client got no answer: {why}")));
        }
        let at = |share| percentile(&tally.latencies, share) as f64 / 1e6;
        Ok(Outcome {
            actions: tally.latencies.len() as u64,
            sent: self.serial.get(),
            seconds,
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            around_ms,
            client_cpu_seconds: cpu.as_secs_f64(),
            statuses: tally.statuses,
            broken: tally.broken,
            refusal: tally.refusal,
            request_bytes: tally.request_bytes,
            answer_bytes: tally.answer_bytes,
        })
    }
}

/// The value below which this share of them lies; `sorted` is not empty.
pub(crate) fn percentile(sorted: &[u64], share: f64) -> u64 {
    let index = (sorted.len() as f64 * share).ceil() as usize;
    sorted[index.clamp(1, sorted.len()) - 1]
}

/// The median of the hundred around the one of this number, counted from one, if there are as many; in the order in
/// which they were answered.
fn median_around(in_order: &[u64], number: u64) -> Option<u64> {
    let first = usize::try_from(number).ok()?.checked_sub(WINDOW / 2)?;
    let mut window = in_order.get(first..first + WINDOW)?.to_vec();
    window.sort_unstable();
    Some(percentile(&window, 0.5))
}

/// A request as bytes, and where its serial number stands.
struct Template {
    bytes: Vec<u8>,
    places: Vec<usize>,
}

impl Template {
    fn all(turn: &[String]) -> Vec<Template> {
        turn.iter().map(|text| Template::new(text)).collect()
    }

    fn new(text: &str) -> Template {
        Template {
            bytes: text.as_bytes().to_vec(),
            places: text.match_indices(SERIAL).map(|(at, _)| at).collect(),
        }
    }

    fn write(&self, serial: u64, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.bytes);
        let digits = digits(serial);
        for place in &self.places {
            out[*place..*place + SERIAL.len()].copy_from_slice(&digits);
        }
    }
}

fn digits(serial: u64) -> [u8; SERIAL.len()] {
    let mut digits = [b'0'; SERIAL.len()];
    let mut rest = serial;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    digits
}

/// What is read of an answer: its status, and where its body lies.
#[derive(Debug, PartialEq, Eq)]
struct Reply {
    status: u16,
    body: Range<usize>,
}

impl Reply {
    fn is_good(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

async fn exchange(stream: &mut TcpStream, request: &[u8], answer: &mut Vec<u8>) -> io::Result<Reply> {
    stream.write_all(request).await?;
    answer.clear();
    let mut begun = None;
    loop {
        if stream.read_buf(answer).await? == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the connection was closed in mid-answer",
            ));
        }
        if begun.is_none() {
            begun = head(answer)?;
        }
        if let Some(head) = &begun
            && let Some(body) = body(head, answer)?
        {
            return Ok(Reply { status: head.status, body });
        }
    }
}

/// How an answer begins.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    /// Where its body begins.
    body: usize,
    /// How long it is, unless it comes in chunks.
    length: Option<usize>,
}

/// Status and length, once the head is there as a whole.
fn head(answer: &[u8]) -> io::Result<Option<Head>> {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&answer[..end]).map_err(|_| wrong("the head of an answer is not text"))?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.get(9..12)?.parse().ok());
    let status = status.ok_or_else(|| wrong("an answer does not begin with a status"))?;
    let value = |name: &str| {
        let mut all = lines.clone().filter_map(|line| line.split_once(':'));
        all.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    };
    let length = match value("transfer-encoding") {
        Some(encoding) if encoding.eq_ignore_ascii_case("chunked") => None,
        _ => {
            let length = value("content-length").and_then(|value| value.parse().ok());
            Some(length.ok_or_else(|| wrong("an answer has no length"))?)
        }
    };
    Ok(Some(Head { status, body: end + 4, length }))
}

/// Where the body lies, once it is there as a whole. What came in chunks is put together.
fn body(head: &Head, answer: &mut [u8]) -> io::Result<Option<Range<usize>>> {
    let from = head.body;
    if let Some(length) = head.length {
        return Ok((from + length <= answer.len()).then(|| from..from + length));
    }
    let (mut chunks, mut at) = (Vec::new(), from);
    loop {
        let Some(end) = answer[at..].windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
        let size = std::str::from_utf8(&answer[at..at + end]).ok();
        let size = size.and_then(|size| usize::from_str_radix(size, 16).ok());
        let size = size.ok_or_else(|| wrong("a chunk of an answer has no size"))?;
        let begin = at + end + 2;
        if begin + size + 2 > answer.len() {
            return Ok(None);
        }
        if size == 0 {
            break;
        }
        chunks.push(begin..begin + size);
        at = begin + size + 2;
    }
    let mut to = from;
    for chunk in chunks {
        let length = chunk.len();
        answer.copy_within(chunk, to);
        to += length;
    }
    Ok(Some(from..to))
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// Of at most a kilobyte each.
const MOST_KEPT: usize = 250_000;
const LONGEST_ANSWER: Duration = Duration::from_secs(10);
/// Of so many turns the median is told.
const WINDOW: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_number_is_patched_in_wherever_it_stands() {
        let template = Template::new(&format!("key: {SERIAL}\r\n\r\n{{\"invoice\":\"inv-{SERIAL}\"}}"));
        let mut out = Vec::new();
        template.write(1207, &mut out);
        assert_eq!(out, b"key: 000000001207\r\n\r\n{\"invoice\":\"inv-000000001207\"}");
        template.write(1208, &mut out);
        assert!(out.starts_with(b"key: 000000001208\r\n"), "the template itself is not changed");
    }

    #[test]
    fn an_answer_is_understood_when_its_head_is_whole() {
        let text = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\nx: y\r\n\r\nhello";
        for cut in 0..=49 {
            assert_eq!(head(&text[..cut]).expect("half a head is no mistake"), None, "cut at {cut}");
        }
        let head = head(text).expect("well formed").expect("whole");
        let mut text = text.to_vec();
        let lies = body(&head, &mut text).expect("well formed").expect("whole");
        assert_eq!((head.status, &text[lies]), (403, &b"hello"[..]));
        assert!(super::head(b"HTTP/1.1 200 OK\r\nx: y\r\n\r\n").is_err(), "nobody could say where it ends");
    }

    #[test]
    fn an_answer_in_chunks_is_put_together_when_all_are_there() {
        let text = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nb\r\n, my people\r\n0\r\n\r\n";
        let head = head(text).expect("well formed").expect("whole");
        for cut in head.body..text.len() {
            let cut = body(&head, &mut text[..cut].to_vec()).expect("half an answer is no mistake");
            assert_eq!(cut, None);
        }
        let mut text = text.to_vec();
        let lies = body(&head, &mut text).expect("well formed").expect("whole");
        assert_eq!(&text[lies], b"hello, my people");
        assert!(body(&head, &mut [&text[..head.body], b"x\r\n"].concat()).is_err());
    }

    #[test]
    fn a_window_lies_around_its_number_in_the_order_of_the_answers() {
        let falling: Vec<u64> = (1..=300).rev().collect();
        assert_eq!(median_around(&falling, 50), Some(250), "the first hundred, 201 to 300");
        assert_eq!(median_around(&falling, 250), Some(50), "the last hundred, 1 to 100");
        assert_eq!(
            [49, 251].map(|number| median_around(&falling, number)),
            [None, None],
            "there are not as many"
        );
    }

    #[test]
    fn a_connection_keeps_to_its_template_where_each_has_its_own() {
        let sent = |taken, serial, connection| {
            let requests = ["a", "b", "c"].map(str::to_owned).into();
            let plan = Plan::of(SocketAddr::from(([127, 0, 0, 1], 1)), 3, Until::Actions(1), requests);
            let run = Run::new(&Plan { taken, ..plan });
            String::from_utf8_lossy(&run.turn(serial, connection)[0].bytes).into_owned()
        };
        assert_eq!([0, 1, 2, 3].map(|serial| sent(Taken::ByAll, serial, 0)), ["a", "b", "c", "a"]);
        assert_eq!([0, 1, 2, 3].map(|serial| sent(Taken::ByOne, serial, 1)), ["b", "b", "b", "b"]);
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let sorted: Vec<u64> = (1..=1000).collect();
        assert_eq!([0.5, 0.99, 0.999, 1.0].map(|share| percentile(&sorted, share)), [500, 990, 999, 1000]);
        assert_eq!(percentile(&[7], 0.5), 7);
    }
}
