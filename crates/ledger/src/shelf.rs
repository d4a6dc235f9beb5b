//! What several gateways on one store hand each other of requests that wait for their clients.
//!
//! ```text
//!   put_aside ─▶ open ─ take_up ─▶ taken up ─┬─ put_aside ─▶ open, in its next round
//!     holder             any gateway         └─ conclude ──▶ over ─ take ─▶ gone
//! ```
//!
//! A request in whose midst a server asks hangs on a connection that cannot be moved, so it stays with the gateway that began it:
//! its *holder*. Its client may come back to any other, which lays down here what the client says, and waits for what comes of
//! it. A round is taken up once, and a result taken once, whoever they are that want to.
//!
//! Nothing of this is an entry of the chain or a part of what an action is; what is laid down is sealed by whoever lays it down.

use std::time::Duration;

use action::{ActionId, Tenant};

use crate::Answer;

/// Names what was put aside, never twice. Nobody guesses one: most of it is drawn at random.
pub type AsideId = [u8; 16];

/// A request that waits for its client, or does so once more.
#[derive(Clone, Debug)]
pub struct Aside {
    /// Which one.
    pub id: AsideId,
    /// Whose it is.
    pub tenant: Tenant,
    /// The action that it is a call of, once it is one.
    pub action: Option<ActionId>,
    /// Stands for who asks for what, and tells nothing of it.
    pub bound: [u8; 32],
    /// Rises each time that it is put aside.
    pub round: u32,
    /// What the client is asked, sealed.
    pub questions: Vec<u8>,
    /// So long it lies there.
    pub kept: Duration,
}

/// How something that was put aside stands.
#[derive(Clone, Debug)]
pub struct Shelved {
    /// In which round it is.
    pub round: u32,
    /// Whether nobody has taken this round up.
    pub is_open: bool,
    /// Whether there is a result to be taken.
    pub is_over: bool,
    /// Whether this process holds it.
    pub is_own: bool,
    /// Whether whoever held it is gone: nothing comes of it any more.
    pub is_orphaned: bool,
    /// What the client is asked, unless this round is known.
    pub questions: Option<Vec<u8>>,
    /// What the client was told since it was taken up, from the first word on that is not known.
    pub words: Vec<Vec<u8>>,
}

/// What came of the wish to take something up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grip {
    /// It is taken up.
    Taken,
    /// It does not lie there in this round yet.
    Early,
    /// Somebody else has taken this round up, or it is over.
    Late,
    /// There is nothing of the kind.
    Gone,
}

/// Something that this process holds and that was taken up at another.
#[derive(Clone, Debug)]
pub struct TakenUp {
    /// What.
    pub id: AsideId,
    /// In which round.
    pub round: u32,
    /// What the client says, sealed; nothing where that is known already.
    pub said: Option<Vec<u8>>,
    /// Whether the client does not want it any more.
    pub is_given_up: bool,
}

/// Where gateways on one store lay down what waits for clients. A store of one process has none.
pub trait Shelf: Send + Sync {
    /// Puts something aside that this process holds: from now on any process may take it up. Its next round takes the place of
    /// the last one. Once more in the same round it changes nothing of what another process has taken up.
    fn put_aside(&self, aside: Aside) -> Answer<'_, ()>;

    /// Takes a round up, with what the client says.
    fn take_up<'a>(&'a self, tenant: &'a Tenant, id: AsideId, round: u32, said: Vec<u8>) -> Answer<'a, Grip>;

    /// Keeps a round from other processes that this one has in hand; as often as it likes, unless another has taken it up.
    fn keep<'a>(&'a self, tenant: &'a Tenant, id: AsideId, round: u32) -> Answer<'a, Grip>;

    /// How something stands, for somebody who knows the questions of this round and so many words of it.
    fn shelved<'a>(
        &'a self,
        tenant: &'a Tenant,
        id: AsideId,
        round: u32,
        words: u32,
    ) -> Answer<'a, Option<Shelved>>;

    /// What is open of this action, is held by another process that is there, and was asked for in just this way.
    fn open_of<'a>(
        &'a self,
        tenant: &'a Tenant,
        action: ActionId,
        bound: [u8; 32],
    ) -> Answer<'a, Option<AsideId>>;

    /// Of what this process holds all that others have taken up. What clients say is left out of those that are `known`.
    fn taken_up(&self, known: Vec<AsideId>) -> Answer<'_, Vec<TakenUp>>;

    /// Tells the client of what was taken up, in order.
    fn tell(&self, id: AsideId, words: Vec<Vec<u8>>) -> Answer<'_, ()>;

    /// The client does not want any more what this process took up in this round.
    fn give_up<'a>(&'a self, tenant: &'a Tenant, id: AsideId, round: u32) -> Answer<'a, ()>;

    /// Lays down what came of it, sealed, for so long.
    fn conclude(&self, id: AsideId, result: Vec<u8>, kept: Duration) -> Answer<'_, ()>;

    /// Takes away what came of it; nothing, if there is no result, not any more, or its time is over.
    fn take<'a>(&'a self, tenant: &'a Tenant, id: AsideId) -> Answer<'a, Option<Vec<u8>>>;

    /// Takes it away, whatever became of it, if this process holds it or whoever did is gone.
    fn discard<'a>(&'a self, tenant: &'a Tenant, id: AsideId) -> Answer<'a, ()>;
}
