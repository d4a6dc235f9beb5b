//! What a verifier believes beforehand, gathered from files and addresses.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use receipt::approval::Approvers;
use receipt::log::Bundle;
use receipt::{Disclosures, Jwks, MAX_BYTES, Pin, Trust};

use crate::error::{Context, Error, Result};

/// What is named to be read.
#[derive(Clone, Copy, Default)]
pub(crate) struct Named<'a> {
    /// A pin, or a file that holds one.
    pub(crate) issuer: &'a str,
    /// A file or an address; without it a key set is looked for beside pin and receipts.
    pub(crate) jwks: Option<&'a str>,
    pub(crate) disclosures: Option<&'a Path>,
    pub(crate) approvers: Option<&'a Path>,
    /// The receipts.
    pub(crate) receipts: &'a [PathBuf],
}

/// Pin, key set, disclosures and approvers, read and understood.
pub(crate) struct Belief {
    pin: Pin,
    jwks: Jwks,
    disclosures: Disclosures,
    approvers: Approvers,
}

impl Belief {
    /// # Errors
    /// Something cannot be read, or no key set is found that the pin bears out.
    pub(crate) fn gather(from: Named<'_>) -> Result<Belief> {
        let Named { issuer, jwks, disclosures, approvers, receipts } = from;
        let (pin, pin_file) = read_pin(issuer)?;
        let jwks = match jwks {
            Some(place) => named_key_set(place)?,
            None => found_key_set(&pin, pin_file.as_deref(), receipts)?,
        };
        let disclosures = read(disclosures, "disclosures", Disclosures::parse)?;
        let approvers = read(approvers, "approvers", Approvers::parse)?;
        Ok(Belief { pin, jwks, disclosures, approvers })
    }

    pub(crate) fn trust(&self, allow_sandbox: bool, require_approvals: bool) -> Trust<'_> {
        let Belief { pin, jwks, disclosures, approvers } = self;
        Trust { allow_sandbox, disclosures, approvers, require_approvals, ..Trust::new(pin, jwks) }
    }
}

/// What a file says, or nothing where none is named.
fn read<T: Default>(
    file: Option<&Path>,
    what: &str,
    parse: impl FnOnce(&[u8]) -> std::result::Result<T, receipt::Error>,
) -> Result<T> {
    let Some(file) = file else { return Ok(T::default()) };
    let text = std::fs::read(file).while_we(|| format!("cannot read `{}`", file.display()))?;
    parse(&text).while_we(|| format!("cannot use the {what} in `{}`", file.display()))
}

/// A digest as it stands, or a file that holds a pin.
pub(crate) fn read_pin(issuer: &str) -> Result<(Pin, Option<PathBuf>)> {
    let (text, file) = if issuer.starts_with("sha256:") || issuer.trim_start().starts_with('{') {
        (issuer.to_owned(), None)
    } else {
        let text = std::fs::read_to_string(issuer).map_err(|error| {
            Error::new(format!("`{issuer}` is neither a pin nor a file that holds one"))
                .because(error)
                .hint(FORMS)
        })?;
        (text, Some(PathBuf::from(issuer)))
    };
    let pin = Pin::parse(&text)
        .map_err(|error| Error::new(format!("cannot use `--issuer {issuer}`")).because(error).hint(FORMS))?;
    Ok((pin, file))
}

fn named_key_set(place: &str) -> Result<Jwks> {
    let is_url = place.starts_with("https://") || place.starts_with("http://");
    let text = if is_url {
        fetch(place)?
    } else {
        std::fs::read(place).while_we(|| format!("cannot read `{place}`"))?
    };
    Jwks::parse(&text).while_we(|| format!("cannot use the key set `{place}`"))
}

/// A key set may come from anywhere, since only one whose digest is pinned is believed.
fn fetch(url: &str) -> Result<Vec<u8>> {
    let cannot = || format!("cannot fetch `{url}`");
    let http =
        reqwest::blocking::Client::builder().timeout(Duration::from_secs(20)).build().while_we(cannot)?;
    let response =
        http.get(url).send().and_then(reqwest::blocking::Response::error_for_status).while_we(cannot)?;
    let mut text = Vec::new();
    response.take(LONGEST_KEY_SET + 1).read_to_end(&mut text).while_we(cannot)?;
    if text.len() as u64 > LONGEST_KEY_SET {
        return Err(Error::new(format!("what `{url}` answers is too long for a key set")));
    }
    Ok(text)
}

/// Looks beside the pin file and the receipts. What lies there is a hint, believed only if the pin names it.
fn found_key_set(pin: &Pin, pin_file: Option<&Path>, paths: &[PathBuf]) -> Result<Jwks> {
    let beside = |path: &Path| path.parent().map(|parent| parent.join(KEY_SET));
    let near = paths.iter().flat_map(|path| [path.is_dir().then(|| path.join(KEY_SET)), beside(path)]);
    let candidates = [pin_file.and_then(beside)].into_iter().chain(near).flatten();
    let mut other = None;
    if let Some(jwks) = paths.iter().find_map(|path| bundled_key_set(pin, path)) {
        return Ok(jwks);
    }
    for file in candidates {
        let Ok(text) = std::fs::read(&file) else { continue };
        match Jwks::parse(&text) {
            Ok(jwks) if pin.trusts(&jwks) => return Ok(jwks),
            _ => other = Some(file),
        }
    }
    Err(match other {
        Some(file) => Error::new(format!("the key set in `{}` is not one that the pin names", file.display()))
            .hint("it lies beside what is verified, and may be another issuer's: name the right one with --jwks FILE or --jwks URL. \
                   A rotated or compromised key changes the digest: then get the issuer's present pin"),
        None => Error::new("no key set given, and none found beside the receipts")
            .hint("name it with --jwks FILE or --jwks URL; a gateway publishes it at /.well-known/jwks.json"),
    })
}

/// The key set that a bundle brings.
fn bundled_key_set(pin: &Pin, path: &Path) -> Option<Jwks> {
    let short = std::fs::metadata(path).ok()?.len() <= 2 * MAX_BYTES as u64;
    if !short {
        return None;
    }
    let text = std::fs::read(path).ok()?;
    let bundle = Bundle::is_one(&text).then(|| Bundle::parse(&text).ok())??;
    pin.trusts(&bundle.jwks).then_some(bundle.jwks)
}

const KEY_SET: &str = super::sources::KEY_SET;
const LONGEST_KEY_SET: u64 = 1 << 20;
const FORMS: &str = "a pin is `sha256:` and 64 hex digits, or a file that may list several: \
                     `{\"issuer\":\"https://…\",\"jwks\":[\"sha256:…\"]}`";
