//! Requests that wait for their clients, where every gateway of the store finds them: what `ledger` lays down is sealed here.
//!
//! What is asked, answered and told may be what a person typed, and lies in a store that many may read. So each piece is sealed
//! under a key of its request that is made of the tenant's, bound to whose request it belongs to, in which round, and as what.
//! Whoever may write into the store can have it not open, or not be there; nobody can have it be another's. Of who asks for what
//! only an HMAC lies there: arguments may be few enough to be guessed from a digest.

use std::sync::Arc;
use std::time::Duration;

use action::{ActionId, HmacKey, Tenant};
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};
use ledger::{Aside, AsideId, Grip, TakenUp};
use zeroize::Zeroizing;

use crate::caller::Caller;
use crate::gateway::Gateway;
use crate::mcp::{Alike, Delivery};
use crate::remember::unavailable;
use crate::row::internal;
use crate::tenants::TenantState;
use crate::vault::Seal;
use crate::{Code, Error};

/// Where a tenant's requests wait for their clients.
#[derive(Clone)]
pub struct Shelf {
    gateway: Arc<Gateway>,
    tenant: Arc<TenantState>,
}

/// Names what was put aside, and who asked for what by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsideName {
    /// Which one.
    pub id: AsideId,
    /// Digest of who asks for what.
    pub bound: [u8; 32],
}

/// How something that was put aside stands.
#[derive(Debug)]
pub struct Shelved {
    /// In which round it is.
    pub round: u32,
    /// Whether nobody has taken this round up.
    pub is_open: bool,
    /// Whether there is a result to be taken.
    pub is_over: bool,
    /// Whether this gateway holds it.
    pub is_own: bool,
    /// Whether the gateway that held it is gone.
    pub is_orphaned: bool,
    /// What the client is asked, unless this round is known.
    pub questions: Option<Zeroizing<Vec<u8>>>,
    /// What the client was told since it was taken up, behind what is known of it.
    pub words: Vec<Zeroizing<Vec<u8>>>,
}

/// Keys made of a tenant's: alike at all gateways of a store, and for nothing else.
pub(crate) struct ShelfKeys {
    state: Zeroizing<[u8; 32]>,
    bound: HmacKey,
    made_of: Prk,
}

impl ShelfKeys {
    pub(crate) fn of(tenant: &[u8; 32]) -> Result<ShelfKeys, String> {
        let made_of = Salt::new(HKDF_SHA256, SALT).extract(tenant);
        let state = key_of(&made_of, &[b"request state"])?;
        let bound = HmacKey::new(&*key_of(&made_of, &[b"bound"])?);
        Ok(ShelfKeys { state, bound, made_of })
    }

    /// What lies in the store of who asks for what.
    fn laid(&self, bound: &[u8; 32]) -> [u8; 32] {
        self.bound.sign(bound)
    }

    /// A key for each request: none seals so many pieces that two of them might have the same nonce.
    fn pieces_of(&self, id: &AsideId) -> Result<Seal, String> {
        Seal::new(&*key_of(&self.made_of, &[b"pieces", id])?)
    }
}

fn key_of(made_of: &Prk, labels: &[&[u8]]) -> Result<Zeroizing<[u8; 32]>, String> {
    let mut key = Zeroizing::new([0; 32]);
    let made = made_of.expand(labels, HKDF_SHA256).and_then(|made| made.fill(&mut *key));
    made.map(|()| key).map_err(|_| "no key could be made of a tenant's".to_owned())
}

impl Gateway {
    /// Where this caller's requests wait for their clients.
    ///
    /// # Errors
    /// `EP_FORBIDDEN` if the caller's tenant is not served.
    pub fn shelf(self: &Arc<Self>, caller: &Caller) -> Result<Shelf, Error> {
        Ok(Shelf { gateway: Arc::clone(self), tenant: Arc::clone(self.tenant(&caller.tenant)?) })
    }

    /// What waits at another gateway of this action, for whoever asks for it in just this way.
    pub(crate) async fn open_of(
        &self,
        caller: &Caller,
        action: ActionId,
        bound: [u8; 32],
    ) -> Result<Option<AsideId>, Error> {
        let Some(shelf) = self.ledger.shelf() else { return Ok(None) };
        let bound = self.tenant(&caller.tenant)?.shelf.laid(&bound);
        shelf.open_of(&caller.tenant, action, bound).await.map_err(unavailable)
    }
}

impl Shelf {
    /// The key under which clients are given their way back, the same at all gateways of the store.
    pub fn state_key(&self) -> &[u8; 32] {
        &self.tenant.shelf.state
    }

    /// Whose requests lie there.
    pub fn tenant(&self) -> &Tenant {
        &self.tenant.tenant
    }

    /// Whose store it is a part of, by a name that no other has in this process.
    pub fn environment(&self) -> action::Environment {
        self.gateway.environment
    }

    /// Whether other gateways may have part in it.
    pub fn is_shared(&self) -> bool {
        self.gateway.ledger.shelf().is_some()
    }

    /// Puts something aside that is under way here, for so long. Once more in the same round it changes nothing of what another
    /// gateway has taken up.
    ///
    /// # Errors
    /// The store's, as of all that follow.
    pub async fn put_aside(
        &self,
        name: AsideName,
        (round, action): (u32, Option<ActionId>),
        questions: &[u8],
        kept: Duration,
    ) -> Result<(), Error> {
        let questions = self.seal(name, (QUESTIONS, round), questions)?;
        let (id, bound) = (name.id, self.tenant.shelf.laid(&name.bound));
        let tenant = self.tenant.tenant.clone();
        let aside = Aside { id, tenant, action, bound, round, questions, kept };
        self.store()?.put_aside(aside).await.map_err(unavailable)
    }

    /// Takes a round up, with what its client says.
    ///
    /// # Errors
    /// The store's.
    pub async fn take_up(&self, name: AsideName, round: u32, said: &[u8]) -> Result<Grip, Error> {
        let said = self.seal(name, (SAID, round), said)?;
        let tenant = &self.tenant.tenant;
        self.store()?.take_up(tenant, name.id, round, said).await.map_err(unavailable)
    }

    /// Keeps a round from other gateways that is had in hand here, as often as one likes, unless another has taken it up.
    ///
    /// # Errors
    /// The store's.
    pub async fn keep(&self, name: AsideName, round: u32) -> Result<Grip, Error> {
        self.store()?.keep(&self.tenant.tenant, name.id, round).await.map_err(unavailable)
    }

    /// How something stands, for somebody who knows the questions of this round and so many words of it. Nothing too, where its
    /// questions do not open by this name: it is of somebody else, or of another request.
    ///
    /// # Errors
    /// The store's.
    pub async fn shelved(&self, name: AsideName, round: u32, words: u32) -> Result<Option<Shelved>, Error> {
        let shelved = self.store()?.shelved(&self.tenant.tenant, name.id, round, words);
        let Some(shelved) = shelved.await.map_err(unavailable)? else { return Ok(None) };
        let ledger::Shelved { round: now, is_open, is_over, is_own, is_orphaned, questions, words } = shelved;
        let opened = |sealed: Vec<u8>| self.opened(name, (QUESTIONS, now), &sealed).map(Some);
        let Some(questions) = questions.map_or(Some(None), opened) else { return Ok(None) };
        // Those of a later round are for whoever took that up.
        let words = words.iter().filter_map(|word| self.opened(name, (TOLD, round), word)).collect();
        Ok(Some(Shelved { round: now, is_open, is_over, is_own, is_orphaned, questions, words }))
    }

    /// What is open of this action at another gateway that is there, for whoever asks for it in just this way.
    ///
    /// # Errors
    /// The store's.
    pub async fn open_of(&self, action: ActionId, bound: [u8; 32]) -> Result<Option<AsideId>, Error> {
        let bound = self.tenant.shelf.laid(&bound);
        self.store()?.open_of(&self.tenant.tenant, action, bound).await.map_err(unavailable)
    }

    /// All that is under way at this gateway and was taken up at others, but for what their clients say in those that are known.
    ///
    /// # Errors
    /// The store's.
    pub async fn taken_up(&self, known: Vec<AsideId>) -> Result<Vec<TakenUp>, Error> {
        self.store()?.taken_up(known).await.map_err(unavailable)
    }

    /// What the client says who came back to another gateway.
    ///
    /// # Errors
    /// It is not what was laid down there.
    pub fn said(&self, name: AsideName, round: u32, said: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.open(name, (SAID, round), said)
    }

    /// Tells the client who came back to another gateway, in order.
    ///
    /// # Errors
    /// The store's.
    pub async fn tell(&self, name: AsideName, round: u32, words: &[Vec<u8>]) -> Result<(), Error> {
        let words = words.iter().map(|word| self.seal(name, (TOLD, round), word));
        let words = words.collect::<Result<Vec<_>, _>>()?;
        self.store()?.tell(name.id, words).await.map_err(unavailable)
    }

    /// The client does not want any more what was taken up here in this round.
    ///
    /// # Errors
    /// The store's.
    pub async fn give_up(&self, name: AsideName, round: u32) -> Result<(), Error> {
        self.store()?.give_up(&self.tenant.tenant, name.id, round).await.map_err(unavailable)
    }

    /// Lays down what came of it, for so long.
    ///
    /// # Errors
    /// The store's.
    pub async fn conclude(&self, name: AsideName, result: &[u8], kept: Duration) -> Result<(), Error> {
        let result = self.seal(name, (RESULT, 0), result)?;
        self.store()?.conclude(name.id, result, kept).await.map_err(unavailable)
    }

    /// Takes away what came of it, if nobody has before.
    ///
    /// # Errors
    /// The store's.
    pub async fn take(&self, name: AsideName) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        let taken = self.store()?.take(&self.tenant.tenant, name.id).await.map_err(unavailable)?;
        taken.map(|sealed| self.open(name, (RESULT, 0), &sealed)).transpose()
    }

    /// Takes it away, whatever became of it, if this gateway holds it or the one that did is gone.
    ///
    /// # Errors
    /// The store's.
    pub async fn discard(&self, name: AsideName) -> Result<(), Error> {
        self.store()?.discard(&self.tenant.tenant, name.id).await.map_err(unavailable)
    }

    /// The delivery that another gateway owed, for whoever gives its outcome to the client.
    pub fn delivery(&self, (alike, times): (Alike, u64)) -> Delivery {
        Delivery::of(&self.gateway, alike, times)
    }

    fn store(&self) -> Result<&dyn ledger::Shelf, Error> {
        let none = || Error::new(Code::Unavailable, "this store is shared by no other gateway");
        self.gateway.ledger.shelf().ok_or_else(none)
    }

    fn seal(&self, name: AsideName, piece: (&str, u32), bytes: &[u8]) -> Result<Vec<u8>, Error> {
        let pieces = self.tenant.shelf.pieces_of(&name.id);
        let sealed = pieces.and_then(|pieces| pieces.seal(&meant_as(&name.bound, piece), bytes));
        sealed.map_err(|_| internal("what is put aside could not be sealed"))
    }

    fn open(&self, name: AsideName, piece: (&str, u32), sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let altered = || internal("what was put aside is not as it was laid down");
        self.opened(name, piece, sealed).ok_or_else(altered)
    }

    fn opened(&self, name: AsideName, piece: (&str, u32), sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        self.tenant.shelf.pieces_of(&name.id).ok()?.open(&meant_as(&name.bound, piece), sealed)
    }
}

/// What a piece of a request is, so that it is nothing else.
fn meant_as(bound: &[u8; 32], (column, round): (&str, u32)) -> Vec<u8> {
    [&bound[..], &round.to_be_bytes(), column.as_bytes()].concat()
}

const SALT: &[u8] = b"countersign/shelf/1";
const QUESTIONS: &str = "questions";
const SAID: &str = "said";
const TOLD: &str = "told";
const RESULT: &str = "result";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_piece_opens_at_every_gateway_of_its_tenant_and_as_nothing_but_what_it_is() {
        let [here, there] = [ShelfKeys::of(&[7; 32]).unwrap(), ShelfKeys::of(&[7; 32]).unwrap()];
        let other = ShelfKeys::of(&[8; 32]).unwrap();
        assert_eq!(here.state, there.state);
        assert_ne!(here.state, other.state);
        let name = AsideName { id: [1; 16], bound: [2; 32] };
        let pieces = here.pieces_of(&name.id).unwrap();
        let sealed = pieces.seal(&meant_as(&name.bound, (SAID, 3)), b"a secret").unwrap();
        let open = |keys: &ShelfKeys, name: AsideName, piece| {
            keys.pieces_of(&name.id).unwrap().open(&meant_as(&name.bound, piece), &sealed)
        };
        assert_eq!(open(&there, name, (SAID, 3)).unwrap().as_slice(), b"a secret");
        assert!(open(&other, name, (SAID, 3)).is_none());
        for (name, piece) in [
            (AsideName { id: [2; 16], ..name }, (SAID, 3)),
            (AsideName { bound: [3; 32], ..name }, (SAID, 3)),
            (name, (SAID, 4)),
            (name, (QUESTIONS, 3)),
        ] {
            assert!(open(&there, name, piece).is_none());
        }
    }

    #[test]
    fn what_lies_there_of_who_asks_for_what_is_found_by_gateways_of_its_tenant_and_tells_nothing() {
        let [here, there] = [ShelfKeys::of(&[7; 32]).unwrap(), ShelfKeys::of(&[7; 32]).unwrap()];
        let bound = [2; 32];
        assert_eq!(here.laid(&bound), there.laid(&bound));
        assert_ne!(here.laid(&bound), bound);
        assert_ne!(here.laid(&bound), ShelfKeys::of(&[8; 32]).unwrap().laid(&bound));
    }
}
