//! Words on stdout and stderr. Nothing here panics when the reader goes away.

use std::fmt::{Arguments, Display};
use std::io::{self, IsTerminal, Write};

use action::is_hidden;

use crate::error::{Context, Result};

/// A line of the result, on stdout.
pub(crate) fn line(text: impl Display) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).while_we(|| "cannot write the output".to_owned())
}

/// A JSON value as the result, on stdout: indented for a person, on one line for a program.
pub(crate) fn json(value: &serde_json::Value) -> Result<()> {
    if io::stdout().is_terminal() { line(format_args!("{value:#}")) } else { line(value) }
}

/// A line beside the result, on stderr; a closed stderr is nobody's business.
pub(crate) fn note(text: Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Rows in aligned columns under a heading; nothing but the heading when there are none.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> Result<()> {
    Columns::under(head, rows).map(drop)
}

/// A table that more rows may be added to. Later ones are aligned as far as they fit what was there.
pub(crate) struct Columns<const N: usize> {
    widths: [usize; N],
}

impl<const N: usize> Columns<N> {
    /// The heading and the first rows.
    pub(crate) fn under(head: [&str; N], rows: &[[String; N]]) -> Result<Columns<N>> {
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([head[column].len()]).max().unwrap_or(0)
        };
        let columns = Columns { widths: std::array::from_fn(width) };
        columns.show(head)?;
        rows.iter().try_for_each(|row| columns.row(row))?;
        Ok(columns)
    }

    pub(crate) fn row(&self, row: &[String; N]) -> Result<()> {
        self.show(std::array::from_fn(|column| row[column].as_str()))
    }

    fn show(&self, cells: [&str; N]) -> Result<()> {
        let padded = cells.iter().zip(self.widths).map(|(cell, width)| format!("{cell:width$}"));
        line(padded.collect::<Vec<_>>().join("  ").trim_end())
    }
}

/// Colours, or plain text where nobody looks at a terminal or has asked for none (`NO_COLOR`).
#[derive(Clone, Copy)]
pub(crate) struct Paint {
    colour: bool,
}

impl Paint {
    pub(crate) fn stdout() -> Paint {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Paint { colour: io::stdout().is_terminal() && !refused }
    }

    pub(crate) fn bold(self, text: impl Display) -> String {
        self.with("1", text)
    }

    pub(crate) fn dim(self, text: impl Display) -> String {
        self.with("2", text)
    }

    pub(crate) fn good(self, text: impl Display) -> String {
        self.with("32", text)
    }

    pub(crate) fn bad(self, text: impl Display) -> String {
        self.with("31", text)
    }

    fn with(self, code: &str, text: impl Display) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}

/// Text of strangers, safe on a terminal: what could move the cursor or turn the writing direction is spelled out.
pub(crate) fn shown(text: &str) -> String {
    if !text.contains(is_hidden) {
        return text.to_owned();
    }
    text.chars().map(|c| if is_hidden(c) { c.escape_unicode().to_string() } else { c.to_string() }).collect()
}

/// The same, and no longer than fits beside other things.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => shown(&text[..end]) + "…",
        None => shown(text),
    }
}

/// The same for a text of several lines, which stay lines.
pub(crate) fn shown_lines(text: &str) -> String {
    text.split('\n').map(shown).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_shown_can_move_the_cursor() {
        assert_eq!(shown("a\x1b[2Jb\u{202e}"), "a\\u{1b}[2Jb\\u{202e}");
        assert_eq!(shown("für"), "für");
        assert_eq!(shown("\u{e0041}\u{ad}"), "\\u{e0041}\\u{ad}", "what is not seen may still be read");
        assert_eq!(
            (shortened("abc\x07", 3), shortened("a\x07", 2)),
            ("abc…".to_owned(), "a\\u{7}".to_owned())
        );
        assert_eq!(shown_lines("a\nb\x1b[2J"), "a\nb\\u{1b}[2J");
    }
}
