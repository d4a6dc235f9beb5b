//! Notifications on their way to a client: in order, never in the way of whoever sends them, and no more than a bound.

use std::sync::{Arc, Mutex};

use rmcp::model::{GetMeta, ServerNotification};
use rmcp::service::{Peer, RoleServer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::lock;

/// What is to be said to one client, besides answers.
pub(super) struct Mail {
    carrier: Mutex<Carrier>,
    /// For bytes that wait.
    room: Arc<Semaphore>,
}

enum Carrier {
    /// Somebody takes it to this client as soon as there is something to carry.
    Waits(Peer<RoleServer>),
    Carries(mpsc::Sender<Letter>),
}

pub(super) enum Letter {
    /// With the room that it takes until it is sent.
    Tell(Box<ServerNotification>, OwnedSemaphorePermit),
    /// Says when everything before it is sent.
    Sent(oneshot::Sender<()>),
}

impl Mail {
    pub(super) fn to(peer: Peer<RoleServer>) -> Mail {
        Mail::by(Carrier::Waits(peer))
    }

    /// Mail that whoever answers a request takes to its client.
    pub(super) fn with_the_answer() -> (Mail, mpsc::Receiver<Letter>) {
        let (carrier, letters) = mpsc::channel(MOST_WAITING);
        (Mail::by(Carrier::Carries(carrier)), letters)
    }

    fn by(carrier: Carrier) -> Mail {
        Mail { carrier: Mutex::new(carrier), room: Arc::new(Semaphore::new(MOST_BYTES)) }
    }

    /// Sends it some time. A client that does not read is told less.
    pub(super) fn tell(&self, mut notification: ServerNotification) {
        // What the server called its own subscription.
        notification.get_meta_mut().0.0.remove(SUBSCRIPTION);
        let place = self.place_for(&notification);
        let letter = place.map(|place| Letter::Tell(Box::new(notification), place));
        if letter.is_none_or(|letter| self.carrier().try_send(letter).is_err()) {
            tracing::debug!("a client does not read its notifications: one was dropped");
        }
    }

    fn place_for(&self, notification: &ServerNotification) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(serde_json::to_vec(notification).ok()?.len()).ok()?;
        Arc::clone(&self.room).try_acquire_many_owned(bytes).ok()
    }

    /// Ends when everything that was told is sent, or never will be.
    pub(super) async fn sent(&self) {
        let carrier = match &*lock(&self.carrier) {
            Carrier::Waits(_) => return,
            Carrier::Carries(carrier) => carrier.clone(),
        };
        let (sent, told) = oneshot::channel();
        if carrier.send(Letter::Sent(sent)).await.is_ok() {
            let _ = told.await;
        }
    }

    fn carrier(&self) -> mpsc::Sender<Letter> {
        let mut carrier = lock(&self.carrier);
        let carries = match &*carrier {
            Carrier::Waits(peer) => carry(peer.clone()),
            Carrier::Carries(letters) => return letters.clone(),
        };
        *carrier = Carrier::Carries(carries.clone());
        carries
    }
}

fn carry(peer: Peer<RoleServer>) -> mpsc::Sender<Letter> {
    let (carrier, mut letters) = mpsc::channel(MOST_WAITING);
    tokio::spawn(async move {
        while let Some(letter) = letters.recv().await {
            match letter {
                Letter::Tell(notification, _place) => {
                    if peer.send_notification(*notification).await.is_err() && peer.is_transport_closed() {
                        return;
                    }
                }
                Letter::Sent(sent) => drop(sent.send(())),
            }
        }
    });
    carrier
}

const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";
/// Notifications that wait for one client.
const MOST_WAITING: usize = 256;
/// And what they have in bytes.
const MOST_BYTES: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use rmcp::model::{ProgressNotification, ProgressNotificationParam, ProgressToken, RequestId};

    use super::*;

    fn progress(bytes: usize) -> ServerNotification {
        let token = ProgressToken(RequestId::Number(1));
        let told = ProgressNotificationParam::new(token, 1.0).with_message("x".repeat(bytes));
        ProgressNotification::new(told).into()
    }

    fn told(letters: &mut mpsc::Receiver<Letter>) -> usize {
        std::iter::from_fn(|| letters.try_recv().ok()).count()
    }

    #[test]
    fn so_many_notifications_wait_for_a_client_and_so_many_bytes() {
        let (mail, mut letters) = Mail::with_the_answer();
        for (bytes, told_of, kept) in [(1, 300, 256), (250_000, 6, 4), (1_000_000, 2, 1), (2_000_000, 1, 0)] {
            // Whatever was taken leaves its room to others.
            for _ in 0..2 {
                (0..told_of).for_each(|_| mail.tell(progress(bytes)));
                assert_eq!(told(&mut letters), kept, "of {bytes} bytes each");
            }
        }
    }

    #[test]
    fn what_is_being_sent_still_takes_its_room() {
        let (mail, mut letters) = Mail::with_the_answer();
        mail.tell(progress(1_000_000));
        let being_sent = letters.try_recv().ok();
        mail.tell(progress(1_000_000));
        assert_eq!(told(&mut letters), 0);
        drop(being_sent);
        mail.tell(progress(1_000_000));
        assert_eq!(told(&mut letters), 1);
    }
}
