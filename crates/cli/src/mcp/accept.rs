//! `countersign mcp accept`: what a server says of its tools now is what it is held to from now on.

use std::path::Path;
use std::process::ExitCode;

use action::ApprovalForm;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use similar::{ChangeTag, TextDiff};

use super::files::{Fate, Files};
use super::gate;
use super::place::Place;
use super::sheet::{self, Accepted, Sheet};
use super::told::{Told, legible_json};
use crate::api::Api;
use crate::error::{Error, Result};
use crate::out::{self, Paint};

/// Show what a server says otherwise of its tools than was accepted, and accept it for those that are named
///
/// Without a tool and without --all it only shows. A tool that is new gets a file in the catalogue. Only what was shown is accepted:
/// what is shown has a digest, which --as-shown repeats, and whatever is otherwise by then is shown anew. What is not shown to its end
/// is not accepted either: --whole shows everything.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The server
    #[arg(value_name = "SERVER")]
    server: String,
    /// Tools to accept
    #[arg(value_name = "TOOL")]
    tools: Vec<String>,
    /// Accept all that are changed or new
    #[arg(long, conflicts_with = "tools")]
    all: bool,
    /// Accept what was shown under this digest, and nothing else
    #[arg(long, value_name = "DIGEST")]
    as_shown: Option<String>,
    /// Show everything, however long it is
    #[arg(long)]
    whole: bool,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    api: Api,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let folder = args.place.catalogue()?;
    let client =
        args.api.client_outside_sandbox("its providers are simulated: no MCP server is called from there")?;
    let seen = gate::servers(&client, Some(&args.server))?.pop();
    let seen = seen.ok_or_else(|| Error::new("the gateway did not answer as one does"))?;
    if let Some(why) = &seen.unreachable {
        return Err(Error::new(format!(
            "`{}` does not list its tools: {}",
            out::shown(&args.server),
            out::shown(why)
        )));
    }
    let mut sheets = sheet::all(&folder)?;
    sheets.retain(|sheet| sheet.server() == args.server);
    let listed: Vec<Listed> = seen.tools.iter().filter_map(|tool| Listed::of(tool, &sheets)).collect();
    if let Some(name) = args.tools.iter().find(|name| listed.iter().all(|one| one.name != **name)) {
        return Err(Error::new(format!(
            "`{}` lists no tool `{}`",
            out::shown(&args.server),
            out::shown(name)
        )));
    }
    let all: Vec<(&Listed, Shown)> = listed.iter().map(|one| (one, one.show(&sheets, args.whole))).collect();
    let meant: Vec<&(&Listed, Shown)> = all.iter().filter(|(one, _)| is_meant(args, one)).collect();
    for line in meant.iter().flat_map(|(_, shown)| &shown.lines) {
        out::line(line)?;
    }
    let digest = digest(args, meant.iter().copied(), &sheets);
    // Some of what was shown may be accepted.
    let known = [&digest, &self::digest(args, all.iter(), &sheets)].map(String::clone);
    let differs = meant.iter().any(|(one, _)| one.differs());
    let is_as_shown = args.as_shown.as_ref().is_some_and(|shown| known.contains(shown));
    let is_asked = args.all || !args.tools.is_empty();
    if !is_asked && !differs {
        out::line(format_args!("Everything that `{}` lists is as it was accepted.", args.server))?;
        return Ok(ExitCode::SUCCESS);
    }
    if !is_asked || (differs && !is_as_shown) {
        tell_what_to_say(args, &digest, (is_asked, is_as_shown))?;
        return Ok(if is_asked { ExitCode::FAILURE } else { ExitCode::SUCCESS });
    }
    let mut accept =
        Accept { args, folder: &folder, sheets, files: Files::new(true, false), rows: Vec::new() };
    for (one, shown) in meant {
        match shown.sight {
            Sight::Whole => accept.one(one)?,
            Sight::Part => accept
                .leave(one, "it says more than is shown: read all of it with --whole, or ask its operator")?,
        }
    }
    accept.tell()
}

fn is_meant(args: &Args, one: &Listed) -> bool {
    if args.tools.is_empty() { one.differs() } else { args.tools.contains(&one.name) }
}

/// In a word what differs and was shown: what is said of each tool, beside what, and whether to its end. A server that shows one
/// thing and has another one accepted would have to find two of the same digest.
fn digest<'a>(args: &Args, shown: impl Iterator<Item = &'a (&'a Listed, Shown)>, sheets: &[Sheet]) -> String {
    let differing = shown.filter(|(one, _)| one.differs()).map(|(one, shown)| {
        let before = one.sheet.map(|(at, _)| sheets[at].pinned());
        json!([one.name, one.digest, before, shown.sight == Sight::Whole])
    });
    let all = json!([args.server, differing.collect::<Vec<_>>()]);
    hex::encode(&Sha256::digest(all.to_string())[..16])
}

fn tell_what_to_say(args: &Args, digest: &str, (is_asked, is_as_shown): (bool, bool)) -> Result<()> {
    out::line(format_args!("as shown: {digest}"))?;
    let state = match args.as_shown.is_some() && !is_as_shown {
        true => "Nothing is accepted: this is not what was shown before.",
        false => "Nothing is accepted yet.",
    };
    let what = if is_asked { "say the same again" } else { "name tools or say --all," };
    out::note(format_args!(
        "{state} What a server says is meant for models: look for what it tells them to do. To accept just this, {what} with \
         --as-shown {digest}"
    ));
    Ok(())
}

/// What of a tool differs, in lines.
struct Shown {
    lines: Vec<String>,
    sight: Sight,
}

/// How much of what differs was shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sight {
    Whole,
    Part,
}

/// A tool that the server lists now.
struct Listed {
    name: String,
    digest: String,
    told: std::result::Result<Told, String>,
    /// Its file, and whether that has another digest.
    sheet: Option<(usize, bool)>,
}

impl Listed {
    fn of(tool: &Value, sheets: &[Sheet]) -> Option<Listed> {
        // What is gone is not listed.
        let digest = tool["digest"].as_str()?;
        let name = tool["tool"].as_str()?.to_owned();
        let at = sheets.iter().position(|sheet| sheet.tool() == name);
        let sheet = at.map(|at| (at, sheets[at].pinned() != digest));
        Some(Listed { told: Told::read(&tool["said"], digest), digest: digest.to_owned(), name, sheet })
    }

    fn differs(&self) -> bool {
        self.sheet.is_none_or(|(_, changed)| changed)
    }

    fn shown_name(&self) -> String {
        out::shortened(&self.name, MOST_NAME)
    }

    fn show(&self, sheets: &[Sheet], whole: bool) -> Shown {
        let mut shown = Shown { lines: Vec::new(), sight: Sight::Whole };
        // What cannot be read is not accepted either, and says why then.
        let Ok(told) = &self.told else { return shown };
        let paint = Paint::stdout();
        let (state, before) = match self.sheet {
            None => ("new", Accepted::default()),
            Some((at, true)) => ("changed", sheets[at].accepted()),
            Some((_, false)) => return shown,
        };
        shown.lines.push(paint.bold(format_args!("{}: {state}", self.shown_name())));
        let now = Accepted::of(told);
        let most = if whole { usize::MAX } else { MOST_LINES };
        for (what, before, now) in before.beside(&now) {
            let (lines, sight) = difference(paint, what, (&lines(before), &lines(now)), most);
            shown.lines.extend(lines);
            if sight == Sight::Part {
                shown.sight = Sight::Part;
            }
        }
        if shown.lines.len() == 1 {
            // Its digest is of the numbers as they came.
            shown
                .lines
                .push("  what differs cannot be shown: numbers of more digits than are kept".to_owned());
            shown.sight = Sight::Part;
        }
        shown.lines.push(String::new());
        shown
    }
}

struct Accept<'a> {
    args: &'a Args,
    folder: &'a Path,
    sheets: Vec<Sheet>,
    files: Files,
    rows: Vec<[String; 3]>,
}

impl Accept<'_> {
    fn one(&mut self, listed: &Listed) -> Result<()> {
        let told = match &listed.told {
            Ok(told) => told,
            Err(why) => return self.leave(listed, why),
        };
        let path = match listed.sheet {
            Some((_, false)) => return self.row(listed, "as before", ""),
            Some((at, true)) => {
                let sheet = &mut self.sheets[at];
                sheet.accept(told)?;
                self.files.overwrite(&sheet.path, &sheet.text()?)?;
                sheet.path.clone()
            }
            None => match sheet::written(&self.args.server, told, self.approval()) {
                Ok(text) => {
                    let path = self.folder.join(sheet::file_name(&self.args.server, &told.name));
                    let mut new = Files::new(false, false);
                    if new.put(&path, &text, Fate::Differs)? == Fate::Differs {
                        return self.leave(
                            listed,
                            &format!("`{}` is there already and is of something else", path.display()),
                        );
                    }
                    path
                }
                Err(why) => return self.leave(listed, &why),
            },
        };
        self.pin_where_it_undoes(told)?;
        self.row(listed, "accepted", &path.display().to_string())
    }

    /// A new tool is agreed to as the others are, if they are all alike.
    fn approval(&self) -> Option<ApprovalForm> {
        let mut forms = self.sheets.iter().map(Sheet::approval);
        let first = forms.next().flatten();
        first.filter(|_| forms.all(|form| form == first))
    }

    /// Others may be undone by this one, and pin it, too.
    fn pin_where_it_undoes(&mut self, told: &Told) -> Result<()> {
        for sheet in self.sheets.iter_mut().filter(|sheet| sheet.undone_by() == Some(&told.name)) {
            sheet.accept_undo(&told.digest)?;
            self.files.overwrite(&sheet.path, &sheet.text()?)?;
        }
        Ok(())
    }

    fn leave(&mut self, listed: &Listed, why: &str) -> Result<()> {
        self.row(listed, "not accepted", &out::shown(why))
    }

    fn row(&mut self, listed: &Listed, state: &str, place: &str) -> Result<()> {
        self.rows.push([listed.shown_name(), state.to_owned(), place.to_owned()]);
        Ok(())
    }

    fn tell(&self) -> Result<ExitCode> {
        out::table(["tool", "is", "file"], &self.rows)?;
        out::note(format_args!(
            "In force after `countersign reload`. A class stays what it was; what is new has none yet."
        ));
        let left = self.rows.iter().any(|row| row[1] == "not accepted");
        Ok(if left { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

/// Foreign text in lines: a text by its own, everything else as JSON.
fn lines(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => format!("{text}\n"),
        other => format!("{}\n", legible_json(other)),
    }
}

/// What is otherwise now, in up to so many lines.
fn difference(paint: Paint, what: &str, (before, now): (&str, &str), most: usize) -> (Vec<String>, Sight) {
    if before == now {
        return (Vec::new(), Sight::Whole);
    }
    let mut lines = vec![format!("  {what}")];
    let diff = TextDiff::configure().timeout(PATIENCE).diff_lines(before, now);
    for group in diff.grouped_ops(CONTEXT) {
        for change in group.iter().flat_map(|op| diff.iter_changes(op)) {
            for part in parts(change.value().trim_end_matches('\n')) {
                if lines.len() > most {
                    lines.push("      … and more, which --whole shows".to_owned());
                    return (lines, Sight::Part);
                }
                let text = out::shown(part);
                lines.push(match change.tag() {
                    ChangeTag::Equal => paint.dim(format_args!("      {text}")),
                    ChangeTag::Delete => paint.bad(format_args!("    - {text}")),
                    ChangeTag::Insert => paint.good(format_args!("    + {text}")),
                });
            }
        }
    }
    (lines, Sight::Whole)
}

/// A line of a stranger's in parts that fit beside their mark: what a terminal breaks by itself looks like a line of ours.
fn parts(line: &str) -> Vec<&str> {
    let (mut parts, mut rest) = (Vec::new(), line);
    while let Some((end, _)) = rest.char_indices().nth(WIDTH) {
        let (part, after) = rest.split_at(end);
        parts.push(part);
        rest = after;
    }
    parts.push(rest);
    parts
}

const MOST_NAME: usize = 60;
const WIDTH: usize = 100;
const MOST_LINES: usize = 500;
const CONTEXT: usize = 2;
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);
