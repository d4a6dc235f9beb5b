//! Notifications on their way to a client: in order, never in the way of whoever sends them, and no more than a bound.

use std::sync::Mutex;

use rmcp::model::{GetMeta, ServerNotification};
use rmcp::service::{Peer, RoleServer};
use tokio::sync::{mpsc, oneshot};

use super::lock;

/// What is to be said to one client, besides answers.
pub(super) struct Mail(Mutex<Carrier>);

enum Carrier {
    /// Somebody takes it to this client as soon as there is something to carry.
    Waits(Peer<RoleServer>),
    Carries(mpsc::Sender<Letter>),
}

pub(super) enum Letter {
    Tell(Box<ServerNotification>),
    /// Says when everything before it is sent.
    Sent(oneshot::Sender<()>),
}

impl Mail {
    pub(super) fn to(peer: Peer<RoleServer>) -> Mail {
        Mail(Mutex::new(Carrier::Waits(peer)))
    }

    /// Mail that whoever answers the request takes to its client.
    pub(super) fn with_the_answer() -> (Mail, mpsc::Receiver<Letter>) {
        let (carrier, letters) = mpsc::channel(MOST_WAITING);
        (Mail(Mutex::new(Carrier::Carries(carrier))), letters)
    }

    /// Sends it some time. A client that does not read is told less.
    pub(super) fn tell(&self, mut notification: ServerNotification) {
        // What the server called its own subscription.
        notification.get_meta_mut().0.0.remove(SUBSCRIPTION);
        if self.carrier().try_send(Letter::Tell(Box::new(notification))).is_err() {
            tracing::debug!("a client does not read its notifications: one was dropped");
        }
    }

    /// Ends when everything that was told is sent, or never will be.
    pub(super) async fn sent(&self) {
        let carrier = match &*lock(&self.0) {
            Carrier::Waits(_) => return,
            Carrier::Carries(carrier) => carrier.clone(),
        };
        let (sent, told) = oneshot::channel();
        if carrier.send(Letter::Sent(sent)).await.is_ok() {
            let _ = told.await;
        }
    }

    fn carrier(&self) -> mpsc::Sender<Letter> {
        let mut carrier = lock(&self.0);
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
                Letter::Tell(notification) => {
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
const MOST_WAITING: usize = 256;
