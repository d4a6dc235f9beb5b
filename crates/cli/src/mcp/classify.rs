//! `countersign mcp classify`: the operator says what a tool does to the world.

use std::path::Path;
use std::process::ExitCode;

use super::class::Class;
use super::files::Files;
use super::place::Place;
use super::sheet::{self, Sheet, Undo};
use crate::error::{Error, Result};
use crate::out;

/// Say what tools do to the world: it decides whether a call is asked about, repeated or undone
///
/// It changes files of the catalogue and needs no gateway. One that runs takes them with `countersign reload`, any other when it
/// starts. Whoever agrees to what cannot be taken back does so with a passkey; where an approver's API key is to be enough, write
/// `approval = "key"` in the tool's file, above its first table.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The server
    #[arg(value_name = "SERVER")]
    server: String,
    /// Its tools; with --proposed, all that are not classified if none is named
    #[arg(value_name = "TOOL")]
    tools: Vec<String>,
    /// What they do
    #[arg(
        long = "as",
        value_name = "CLASS",
        required_unless_present = "proposed",
        conflicts_with = "proposed"
    )]
    class: Option<Class>,
    /// What the server's annotations say of each: you take its word
    #[arg(long)]
    proposed: bool,
    /// Another tool of the server that takes the effect back
    #[arg(long, value_name = "TOOL", conflicts_with = "proposed")]
    reversible_by: Option<String>,
    #[command(flatten)]
    place: Place,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let folder = args.place.catalogue()?;
    let mut sheets = sheets_of(&folder, &args.server)?;
    let undo = args.reversible_by.as_deref().map(|name| position(&sheets, name, &args.server)).transpose()?;
    let meant = meant(args, &sheets)?;
    let files = Files::new(true, false);
    let (mut rows, mut grave) = (Vec::new(), false);
    for at in meant {
        let undo = undo.map(|other| undo_of(&sheets[at], &sheets[other])).transpose()?;
        let sheet = &mut sheets[at];
        let class = args.class.unwrap_or_else(|| Class::proposed(Some(&sheet.accepted().annotations)).0);
        if class == Class::ReadOnly && undo.is_some() {
            return Err(Error::new("what is read_only has nothing to be taken back")
                .hint("leave out --reversible-by"));
        }
        let before = sheet.class().map_or("none", Class::as_str);
        sheet.classify(class, undo)?;
        grave |= class != Class::ReadOnly && sheet.undone_by().is_none() && sheet.approval().is_none();
        files.overwrite(&sheet.path, &sheet.text()?)?;
        let undone_by = sheet.undone_by().unwrap_or_default().to_owned();
        rows.push([
            sheet.tool().to_owned(),
            before.to_owned(),
            class.as_str().to_owned(),
            undone_by,
            sheet.path.display().to_string(),
        ]);
    }
    out::table(["tool", "was", "is", "undone by", "file"], &rows)?;
    out::note(format_args!(
        "In force after `countersign reload`, or with the next start where no gateway runs."
    ));
    if grave {
        out::note(format_args!("{}", sheet::KEY_IS_ENOUGH));
    }
    Ok(ExitCode::SUCCESS)
}

/// The files of one server's tools.
pub(super) fn sheets_of(folder: &Path, server: &str) -> Result<Vec<Sheet>> {
    let mut sheets = sheet::all(folder)?;
    sheets.retain(|sheet| sheet.server() == server);
    match sheets.is_empty() {
        false => Ok(sheets),
        true => Err(Error::new(format!(
            "no file in `{}` is of a tool of `{}`",
            folder.display(),
            out::shown(server)
        ))
        .hint("`countersign mcp import` writes them, and `countersign mcp accept` those that are new")),
    }
}

fn meant(args: &Args, sheets: &[Sheet]) -> Result<Vec<usize>> {
    if args.tools.is_empty() && !args.proposed {
        return Err(Error::new("no tool is named")
            .hint("--as is for tools by name; --proposed takes all that are not classified"));
    }
    if args.tools.is_empty() {
        return Ok((0..sheets.len()).filter(|at| sheets[*at].class().is_none()).collect());
    }
    args.tools.iter().map(|name| position(sheets, name, &args.server)).collect()
}

fn position(sheets: &[Sheet], tool: &str, server: &str) -> Result<usize> {
    let found = sheets.iter().position(|sheet| sheet.tool() == tool);
    found.ok_or_else(|| {
        Error::new(format!("no file is of the tool `{}` of `{server}`", out::shown(tool))).hint(format!(
            "`countersign mcp tools` lists them; a new one is taken by `countersign mcp accept {server} TOOL`"
        ))
    })
}

fn undo_of(sheet: &Sheet, other: &Sheet) -> Result<Undo> {
    sheet.undone_with(other).map_err(|missing| {
        let missing = missing.iter().map(|name| format!("`{}`", out::shown(name))).collect::<Vec<_>>().join(", ");
        Error::new(format!("nothing of `{}` or its answer is known to be {missing} of `{}`", sheet.tool(), other.tool())).hint(format!(
            "say it in `{}` yourself:\n[binding]\nreference = \"/structuredContent/…\"      # where the answer names what it made\n\
             [binding.rollback]\ntool = \"{}\"\npinned = \"{}\"\nwithin_seconds = 86400\n\
             arguments = {{ NAME = {{ \"$value\" = \"/an_argument\" }}, OTHER = {{ \"$action\" = \"provider_reference\" }} }}",
            sheet.path.display(),
            other.tool(),
            other.pinned(),
        ))
    })
}
