//! A client that came back here to what another gateway holds.
//!
//! What it says is laid down on the shelf, and what comes of it is waited for there: words, then the next question or the result.
//! The client is told as if it had all happened here; whoever gives it the result has delivered that.

use std::time::Duration;

use gateway::{AsideName, Grip, Shelved};
use rmcp::model::{ErrorData, ServerNotification};
use tokio::time::sleep;

use super::desk::{Answered, Errand, State, asking, away, busy};
use super::inquiry::Inquiry;
use super::party::must_be_able;
use super::slips::{self, Asked, Came, Said};

/// Goes on with what waits elsewhere, in the round that its client was told of, or in whichever it is. Nothing, where there is
/// nothing to be gone on with, or not any more.
pub(super) async fn go_on(
    inquiry: &Inquiry,
    errand: &Errand,
    name: AsideName,
    told: Option<u32>,
) -> Result<Option<Answered>, ErrorData> {
    match take_up(inquiry, errand, name, told).await? {
        Taken::Round(round) => {
            let answered = wait(inquiry, errand, name, round).await;
            inquiry.mail.sent().await;
            answered
        }
        Taken::Over => take(errand, name).await,
        Taken::Nothing => Ok(None),
    }
}

enum Taken {
    Round(u32),
    Over,
    Nothing,
}

async fn take_up(
    inquiry: &Inquiry,
    errand: &Errand,
    name: AsideName,
    told: Option<u32>,
) -> Result<Taken, ErrorData> {
    for _ in 0..MOST_TRIES {
        let shelved = errand.shelf.shelved(name, NO_ROUND, 0).await.map_err(|error| away(&error))?;
        let Some(shelved) = shelved else { return Ok(Taken::Nothing) };
        let Shelved { round, is_open, is_over, is_own, is_orphaned, questions, .. } = shelved;
        if is_over {
            return Ok(Taken::Over);
        }
        // What this gateway holds and does not know of any more is over, but for its row.
        if is_own || is_orphaned {
            clear_away(errand, name).await;
            return Ok(Taken::Nothing);
        }
        if !is_open {
            return if told.is_some() { Err(busy()) } else { Ok(Taken::Nothing) };
        }
        let asked: Asked = slips::read(questions.as_deref().map_or(&[], Vec::as_slice))?;
        if told.is_none() {
            // Whatever it waits for, this client may not be able to answer it.
            asked.requests.values().try_for_each(|request| must_be_able(&errand.able, request))?;
        }
        let answers = match told {
            // Only whoever has the state was asked.
            None => None,
            // Who repeats an earlier round is asked the same as last time.
            Some(told) if told != round => None,
            Some(_) => Some(errand.responses.clone().unwrap_or_default()),
        };
        let (progress, level) = (inquiry.meta.get_progress_token(), inquiry.meta.log_level());
        let said = slips::write(&Said { answers, progress, level, ..Said::nothing() });
        match errand.shelf.take_up(name, round, &said).await.map_err(|error| away(&error))? {
            Grip::Taken => return Ok(Taken::Round(round)),
            Grip::Gone => return Ok(Taken::Nothing),
            // By now it may be in its next round, or over.
            Grip::Early | Grip::Late => {}
        }
    }
    Err(busy())
}

/// Waits for what comes of a round that was taken up.
async fn wait(
    inquiry: &Inquiry,
    errand: &Errand,
    name: AsideName,
    round: u32,
) -> Result<Option<Answered>, ErrorData> {
    let (mut heard, mut rest, mut failures) = (0, SHORTEST, 0);
    loop {
        let look = async {
            sleep(rest).await;
            errand.shelf.shelved(name, round, heard).await
        };
        let looked = tokio::select! {
            looked = look => looked,
            () = inquiry.gone.cancelled() => return Err(leave(errand, name, round).await),
        };
        rest = (rest * 2).min(LONGEST);
        let shelved = match looked {
            Ok(shelved) => {
                failures = 0;
                shelved
            }
            Err(error) if failures >= MOST_FAILURES => return Err(away(&error)),
            Err(_) => {
                failures += 1;
                continue;
            }
        };
        let Some(shelved) = shelved else { return Ok(None) };
        for word in &shelved.words {
            heard += 1;
            if let Ok(word) = serde_json::from_slice::<ServerNotification>(word) {
                inquiry.mail.tell(word);
            }
        }
        if let Some(questions) = &shelved.questions {
            let asked: Asked = slips::read(questions)?;
            let state = State { id: name.id, round: shelved.round, action: asked.action() };
            return Ok(Some(asking(errand, &state, asked.requests)));
        }
        if shelved.is_over {
            return take(errand, name).await;
        }
        if shelved.is_orphaned {
            clear_away(errand, name).await;
            return Ok(None);
        }
    }
}

async fn take(errand: &Errand, name: AsideName) -> Result<Option<Answered>, ErrorData> {
    let Some(came) = errand.shelf.take(name).await.map_err(|error| away(&error))? else { return Ok(None) };
    let came: Came = slips::read(&came)?;
    came.answered(&errand.shelf).map(Some)
}

/// Nobody waits any more. A call goes on without its client.
async fn leave(errand: &Errand, name: AsideName, round: u32) -> ErrorData {
    if errand.seat.is_none()
        && let Err(error) = errand.shelf.give_up(name, round).await
    {
        tracing::debug!(%error, "another gateway does not know that its client is gone");
    }
    ErrorData::internal_error("nobody waits for this any more", None)
}

async fn clear_away(errand: &Errand, name: AsideName) {
    if let Err(error) = errand.shelf.discard(name).await {
        tracing::debug!(%error, "what nobody goes on with lies on the shelf yet");
    }
}

/// Rounds begin with one.
pub(super) const NO_ROUND: u32 = 0;
const MOST_TRIES: u32 = 3;
/// Between two looks.
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_millis(500);
/// So many looks may fail, one after the other.
const MOST_FAILURES: u32 = 20;
