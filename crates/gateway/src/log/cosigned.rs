//! Checkpoints as witnesses cosigned them.

use std::sync::PoisonError;

use action::Tenant;
use receipt::log::{Checkpoint, Note, Verifier};

use super::Logs;
use super::marks::Mark;

/// Of the checkpoints of a log that witnesses cosigned the newest by each number of them: verifiers demand as many as they like, so
/// one that few cosigned takes no place of one that more did.
#[derive(Clone, Default)]
pub(super) struct Cosigned(Vec<By>);

#[derive(Clone)]
struct By {
    mark: Mark,
    count: usize,
}

impl By {
    /// Does it do all that the other one does?
    fn covers(&self, other: &By) -> bool {
        self.count >= other.count && self.mark.checkpoint.size >= other.mark.checkpoint.size
    }
}

impl Cosigned {
    /// Keeps a checkpoint that some of these witnesses cosigned, and says how many; nothing if another one does all that it does.
    pub(super) fn keep(&mut self, mark: &Mark, witnesses: &[Verifier]) -> Option<usize> {
        let count = witnesses.iter().filter(|key| matches!(mark.note.signed_by(key), Ok(Some(_)))).count();
        let new = By { mark: mark.clone(), count };
        if count == 0 || self.0.iter().any(|old| old.covers(&new)) {
            return None;
        }
        self.0.retain(|old| !new.covers(old));
        self.0.push(new);
        Some(count)
    }

    /// That checkpoint, if it was cosigned.
    pub(super) fn of(&self, checkpoint: &Checkpoint) -> Option<Note> {
        self.0.iter().find(|by| by.mark.checkpoint == *checkpoint).map(|by| by.mark.note.clone())
    }

    /// The one that most cosigned of those that have this leaf.
    pub(super) fn with(&self, leaf: u64) -> Option<Mark> {
        self.all()
            .filter(|(mark, _)| leaf < mark.checkpoint.size)
            .max_by_key(|(_, count)| *count)
            .map(|(mark, _)| mark.clone())
    }

    /// Each, and by how many.
    pub(super) fn all(&self) -> impl Iterator<Item = (&Mark, usize)> {
        self.0.iter().map(|by| (&by.mark, by.count))
    }
}

impl Logs {
    /// Takes what a witness answered to the offer of a checkpoint: its own line of it, and no other.
    pub(super) fn cosign(
        &self,
        tenant: &Tenant,
        offered: &Mark,
        witness: &Verifier,
        lines: &str,
    ) -> Result<(), receipt::log::Error> {
        let kept = {
            let mut signed = self.signed.write().unwrap_or_else(PoisonError::into_inner);
            let Some(signed) = signed.get_mut(tenant) else { return Ok(()) };
            let checkpoint = &offered.checkpoint;
            // What others answered meanwhile stays.
            let note = signed.cosigned.of(checkpoint).unwrap_or_else(|| offered.note.clone());
            let mark = Mark { checkpoint: checkpoint.clone(), note: note.cosigned(witness, lines)? };
            if signed.checkpoint == mark.checkpoint {
                signed.note = Some(mark.note.clone());
            }
            signed.cosigned.keep(&mark, &self.witnesses).map(|count| (mark, count))
        };
        if let (Some((mark, count)), Some(marks)) = (kept, self.marks.get(tenant))
            && let Err(error) = marks.keep_cosigned(count, &mark, &self.signer)
        {
            // It is had again when the witness is asked once more.
            tracing::warn!(%error, %tenant, "a cosigned checkpoint could not be written");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use receipt::log::Signer;

    use super::*;

    fn mark(log: &Signer, size: u64, by: &[&Signer]) -> Mark {
        let checkpoint = Checkpoint { origin: "gw.example/log/default".to_owned(), size, root: [7; 32] };
        let mut note = log.sign(&checkpoint).unwrap();
        for witness in by {
            let line = witness.cosign("w.example", &note, 5).unwrap();
            note = Note::parse(&format!("{note}{line}\n")).unwrap();
        }
        Mark { checkpoint, note }
    }

    #[test]
    fn what_all_witnesses_cosigned_gives_way_to_nothing_that_fewer_did() {
        let [log, one, two] = std::array::from_fn(|_| Signer::generate().unwrap());
        let witnesses = [one.witness("w.example").unwrap(), two.witness("w.example").unwrap()];
        let mut cosigned = Cosigned::default();
        assert_eq!(cosigned.keep(&mark(&log, 5, &[]), &witnesses), None);
        assert_eq!(cosigned.keep(&mark(&log, 10, &[&one, &two]), &witnesses), Some(2));
        assert_eq!(cosigned.keep(&mark(&log, 20, &[&one]), &witnesses), Some(1));
        let size = |cosigned: &Cosigned, leaf| cosigned.with(leaf).map(|mark| mark.checkpoint.size);
        assert_eq!(
            [0, 9, 10, 19, 20].map(|leaf| size(&cosigned, leaf)),
            [Some(10), Some(10), Some(20), Some(20), None]
        );
        // It gives way to what as many cosigned later.
        assert_eq!(cosigned.keep(&mark(&log, 20, &[&one, &two]), &witnesses), Some(2));
        assert_eq!(cosigned.all().count(), 1);
        assert_eq!(cosigned.keep(&mark(&log, 15, &[&two]), &witnesses), None);
    }
}
