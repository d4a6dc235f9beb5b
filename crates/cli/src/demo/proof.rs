//! What is left when gateway and bank are gone: a folder, and what can be proved from it.

use std::fs;
use std::path::{Path, PathBuf};

use receipt::{Document, Jwks, Pin, Report, Verdict};

use super::narrator::{Narrator, promise};
use super::story::Told;
use super::world::World;
use crate::error::{Context, Error, Result};
use crate::verify::{Belief, Named};

/// `receipts/`, `tampered/`, `jwks.json`, `issuer.pin`.
pub(super) struct Folder(PathBuf);

impl Folder {
    /// A new folder, or one that an earlier demo left.
    pub(super) fn prepare(dir: Option<&Path>) -> Result<Folder> {
        let folder = match dir {
            Some(dir) => own(dir)?,
            None => {
                let folder =
                    tempfile::Builder::new().prefix("countersign-receipts-").disable_cleanup(true).tempdir();
                folder.while_we(|| "cannot make a temporary folder".to_owned())?.keep()
            }
        };
        let folder = Folder(folder);
        for inner in [folder.receipts(), folder.tampered()] {
            fs::create_dir_all(&inner).while_we(|| format!("cannot make `{}`", inner.display()))?;
        }
        Ok(folder)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn receipts(&self) -> PathBuf {
        self.0.join("receipts")
    }

    pub(super) fn tampered(&self) -> PathBuf {
        self.0.join("tampered")
    }

    pub(super) fn pin(&self) -> PathBuf {
        self.0.join(PIN)
    }

    pub(super) fn key_set(&self) -> PathBuf {
        self.0.join(KEY_SET)
    }

    /// Fetches what a verifier needs, while there is a gateway to fetch it from.
    pub(super) fn keep(&self, world: &World, receipts: &[Told]) -> Result<()> {
        let key_set = world.document("/.well-known/jwks.json")?;
        let jwks = Jwks::parse(&key_set).while_we(|| "the gateway's key set cannot be read".to_owned())?;
        self.write(KEY_SET, &key_set)?;
        self.write(PIN, Pin::new(&world.gateway_process().url, &jwks).to_text().as_bytes())?;
        for told in receipts {
            let document = world.document(&format!("/v1/receipts/{}", told.receipt_id))?;
            self.write(&receipt_file(told), &document)?;
        }
        Ok(())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        fs::write(self.0.join(name), bytes)
            .while_we(|| format!("cannot write `{name}` in `{}`", self.0.display()))
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        fs::read(self.0.join(name)).while_we(|| format!("cannot read `{name}` in `{}`", self.0.display()))
    }
}

/// Verifies every receipt from the files alone, then one that was tampered with.
pub(super) fn tell(folder: &Folder, receipts: &[Told], narrator: &mut Narrator) -> Result<()> {
    let belief = Belief::gather(Named {
        issuer: &folder.pin().display().to_string(),
        receipts: &[folder.receipts()],
        ..Named::default()
    })?;
    let verify = |document: &[u8]| receipt::verify(document, &belief.trust(false, false));
    genuine(folder, receipts, narrator, &verify)?;
    tampered(folder, receipts, narrator, &verify)
}

fn genuine(
    folder: &Folder,
    receipts: &[Told],
    narrator: &mut Narrator,
    verify: &impl Fn(&[u8]) -> Report,
) -> Result<()> {
    let mut promises = Vec::new();
    for told in receipts {
        let verdict = verify(&folder.read(&receipt_file(told))?).verdict;
        promises.push(promise(format!("{}: {verdict}", receipt_file(told)), verdict == Verdict::Valid));
    }
    promises.push(promise("every outcome has its receipt, refusals too", receipts.len() == 7));
    narrator.look(
        "receipts_verified",
        "Gateway and bank are gone; the receipts are verified from files alone",
        promises,
    )
}

fn tampered(
    folder: &Folder,
    receipts: &[Told],
    narrator: &mut Narrator,
    verify: &impl Fn(&[u8]) -> Report,
) -> Result<()> {
    let first = receipts.first().ok_or_else(|| Error::new("there is no receipt to tamper with"))?;
    let document = String::from_utf8(folder.read(&receipt_file(first))?)
        .while_we(|| "a receipt is not text".to_owned())?;
    let Some((forged, index)) = forge(&document) else {
        return narrator.look(
            "tampered",
            "A forger changes the amount",
            vec![promise("no entry shows the amount", false)],
        );
    };
    folder.write(&format!("tampered/{}.json", first.file), forged.as_bytes())?;
    let verdict = verify(forged.as_bytes()).verdict;
    let named = matches!(&verdict, Verdict::Invalid(failure) if failure.entry_index() == Some(index));
    let title = format!("A forger makes 120.00 into 920.00 in entry {index} of the first receipt");
    narrator.look("tampered", &title, vec![promise(format!("verification says: {verdict}"), named)])
}

/// The receipt with another amount in the first entry that shows it, and the index of that entry.
fn forge(document: &str) -> Option<(String, usize)> {
    let read = Document::parse(document).ok()?;
    let (index, entry) = read.entries.iter().enumerate().find(|(_, entry)| entry.text.contains(AMOUNT))?;
    let forged = entry.text.replacen(AMOUNT, "\"920.00\"", 1);
    Some((document.replacen(entry.text, &forged, 1), index))
}

/// Takes a folder that is empty or was made by an earlier demo, and clears what that one left.
fn own(dir: &Path) -> Result<PathBuf> {
    let shown = dir.display();
    fs::create_dir_all(dir).while_we(|| format!("cannot make `{shown}`"))?;
    let mut entries = fs::read_dir(dir).while_we(|| format!("cannot list `{shown}`"))?;
    if entries.next().is_some() {
        if !dir.join(MARK).is_file() {
            return Err(Error::new(format!("`{shown}` is not empty"))
                .hint("name a new folder, or one that an earlier demo made"));
        }
        for inner in ["receipts", "tampered"].map(|name| dir.join(name)) {
            if inner.is_dir() {
                fs::remove_dir_all(&inner).while_we(|| format!("cannot clear `{}`", inner.display()))?;
            }
        }
    }
    fs::write(dir.join(MARK), "").while_we(|| format!("cannot write to `{shown}`"))?;
    fs::canonicalize(dir).while_we(|| format!("cannot find `{shown}`"))
}

fn receipt_file(told: &Told) -> String {
    format!("receipts/{}.json", told.file)
}

const PIN: &str = "issuer.pin";
const KEY_SET: &str = "jwks.json";
/// Says that a folder is the demo's own, to be cleared by the next one.
const MARK: &str = ".countersign-demo";
const AMOUNT: &str = "\"120.00\"";
