//! Progress, on stderr: what is being measured and how far it is.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A line that says what is being done while it is.
pub(crate) fn doing(what: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// A bar for a run whose length is known.
pub(crate) fn running(what: &str, length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:44} {wide_bar} {elapsed_precise}");
    let bar = ProgressBar::new(length).with_message(what.to_owned());
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
