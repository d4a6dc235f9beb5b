use std::ops::Range;

use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use crate::approval::Approval;
use crate::draft::{Checkpoint, Draft, Metadata, MoneyFields, Observed};
use crate::{Chain, Error, SigningKey, Stage, Timestamp, canonical};

/// The format, as every receipt names it.
pub const SPEC: &str = "ep-receipt/2026-04-27";

/// A signed receipt, held as the bytes that strangers will hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    document: Vec<u8>,
    value: Range<usize>,
    created: Timestamp,
    short: String,
}

/// Signs a draft and its entries.
///
/// Signed are the canonical bytes of the receipt without `created` and `signature.value`. `created` is the time of
/// the last entry, which is signed.
///
/// # Errors
/// [`Error::StageOrder`] if the chain does not end with the stage `receipt`, [`Error::Member`] if a member of the
/// draft breaks the format or an executed action lacks an entry, [`Error::Signing`] if the cryptographic library fails.
pub fn sign(draft: &Draft<'_>, chain: &Chain, key: &SigningKey) -> Result<Receipt, Error> {
    if chain.stage() != Stage::Receipt {
        return Err(Error::StageOrder { stage: "a signature", last: chain.stage().as_str() });
    }
    draft.check()?;
    draft.check_promise(chain.last_at())?;
    draft.check_entries(chain.len())?;
    let Laid { mut document, created, signature } = laid(draft, chain, key.kid());
    // One digest serves the signature and the short name.
    let mut hasher = digest::Context::new(&digest::SHA256);
    hasher.update(&document[..created.start]);
    hasher.update(&document[created.end..signature.start]);
    hasher.update(&document[signature.end..]);
    let digest = hasher.finish();
    let start = signature.start + SIGNATURE_OPENS.len();
    let value = start..start + NO_SIGNATURE.len();
    let text = BASE64_URL_SAFE_NO_PAD.encode(key.sign_digest(&digest)?);
    document[value.clone()].copy_from_slice(text.as_bytes());

    debug_assert!(canonical::is_canonical(&document));
    Ok(Receipt { document, value, created: chain.last_at(), short: short_name(digest.as_ref()) })
}

impl Receipt {
    /// The whole document, canonical JSON.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.document
    }

    /// The whole document, canonical JSON.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.document
    }

    /// The member `signature.value`, by which `/r/…` finds the receipt.
    #[must_use]
    pub fn signature_value(&self) -> &str {
        #[expect(clippy::expect_used, reason = "the range was taken around base64url text")]
        std::str::from_utf8(&self.document[self.value.clone()]).expect("base64url is ASCII")
    }

    /// The short name for `/r/…`: the first 12 characters of base64url(SHA-256(signed bytes)).
    #[must_use]
    pub fn short(&self) -> &str {
        &self.short
    }

    /// The member `created`.
    #[must_use]
    pub fn created(&self) -> Timestamp {
        self.created
    }

    /// The receipt's hash, as ledger entries name it: lower-case hex SHA-256 of the whole document, signature and
    /// all.
    #[must_use]
    pub fn hash(&self) -> String {
        hash(&self.document)
    }
}

/// Lower-case hex SHA-256 of a document's bytes, as ledger entries name receipts.
#[must_use]
pub fn hash(document: &[u8]) -> String {
    hex::encode(Sha256::digest(document))
}

pub(crate) fn short_name(digest: &[u8]) -> String {
    let mut name = BASE64_URL_SAFE_NO_PAD.encode(digest);
    name.truncate(12);
    name
}

/// A whole document but for the signature, and where its two members stand that are not signed, commas and all.
struct Laid {
    document: Vec<u8>,
    created: Range<usize>,
    signature: Range<usize>,
}

/// Writes the document once, with room for the signature.
fn laid(draft: &Draft<'_>, chain: &Chain, kid: &str) -> Laid {
    let mut document = Vec::with_capacity(chain.size() + 1696);
    let mut receipt = Object::open(&mut document);
    receipt.text("agentId", &draft.agent_id);
    receipt.maybe("amendmentOf", draft.event.amendment_of());
    receipt.text("chainId", &draft.chain_id);
    receipt.comma();
    let created = receipt.out.len();
    receipt.first = true;
    receipt.text("created", chain.last_at().as_str());
    receipt.comma();
    let created = created..receipt.out.len();
    receipt.first = true;
    chain.write(receipt.name("entries"));
    receipt.text("eventType", draft.event.as_str());
    receipt.maybe("idempotencyKey", draft.idempotency_key.as_deref());
    write_metadata(receipt.name("metadata"), &draft.metadata);
    write_money(receipt.name("money"), &draft.money);
    receipt.text("paymentStatus", draft.payment_status.as_str());
    receipt.text("receiptId", &draft.receipt_id);
    write_array(receipt.name("regulatoryFramework"), &draft.regulatory_framework, |out, text| {
        canonical::write_string(out, text);
    });
    receipt.text("replicaId", &draft.replica_id);
    receipt.maybe("sessionId", draft.session_id.as_deref());
    let mut members = Object::open(receipt.name("signature"));
    members.text("alg", "ES256");
    members.text("kid", kid);
    let signature = members.out.len();
    members.out.extend_from_slice(SIGNATURE_OPENS);
    members.out.extend_from_slice(&NO_SIGNATURE);
    members.out.push(b'"');
    let signature = signature..members.out.len();
    members.close();
    receipt.text("transactionId", &draft.transaction_id);
    let mut version = Object::open(receipt.name("version"));
    version.text("spec", SPEC);
    version.close();
    receipt.close();
    Laid { document, created, signature }
}

fn write_metadata(out: &mut Vec<u8>, metadata: &Metadata<'_>) {
    let mut object = Object::open(out);
    write_array(object.name("approvals"), &metadata.approvals, |out, approval: &Approval| {
        out.extend_from_slice(approval.json().as_str().as_bytes());
    });
    object.maybe("archetype", metadata.archetype.as_deref());
    object.maybe("catalogDigest", metadata.catalog_digest.as_deref());
    object.maybe("entityDigest", metadata.entity_digest.as_deref());
    object.text("environment", metadata.environment.as_str());
    object.maybe("guaranteeLevel", metadata.guarantee_level.as_deref());
    object.maybe("intentId", metadata.intent_id.as_deref());
    object.text("issuer", &metadata.issuer);
    object.text("kind", metadata.kind.as_str());
    write_or_null(object.name("log"), metadata.log.as_ref(), write_checkpoint);
    object.maybe("mandateId", metadata.mandate_id.as_deref());
    write_or_null(object.name("observed"), metadata.observed.as_ref(), write_observed);
    object.maybe("policyDigest", metadata.policy_digest.as_deref());
    object.text("tenant", &metadata.tenant);
    object.close();
}

fn write_checkpoint(out: &mut Vec<u8>, log: &Checkpoint<'_>) {
    let mut object = Object::open(out);
    if let Some(promise) = &log.promise {
        object.text("mergeBy", promise.merge_by.as_str());
        object.text("nonce", &promise.nonce);
    }
    object.text("origin", &log.origin);
    object.text("root", &log.root);
    object.name("size").extend_from_slice(log.size.to_string().as_bytes());
    object.close();
}

fn write_observed(out: &mut Vec<u8>, observed: &Observed<'_>) {
    let mut object = Object::open(out);
    object.maybe("code", observed.code.as_deref());
    object.text("would_be", &observed.would_be);
    object.close();
}

fn write_money(out: &mut Vec<u8>, money: &MoneyFields<'_>) {
    let mut object = Object::open(out);
    object.maybe("chargeAmount", money.charge_amount.as_deref());
    object.maybe("chargeCurrency", money.charge_currency.as_deref());
    object.maybe("offerAmount", money.offer_amount.as_deref());
    object.maybe("offerCurrency", money.offer_currency.as_deref());
    object.close();
}

fn write_array<T>(out: &mut Vec<u8>, items: &[T], write: impl Fn(&mut Vec<u8>, &T)) {
    out.push(b'[');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

fn write_or_null<T>(out: &mut Vec<u8>, value: Option<&T>, write: impl Fn(&mut Vec<u8>, &T)) {
    match value {
        Some(value) => write(out, value),
        None => out.extend_from_slice(b"null"),
    }
}

/// What stands before the signature's text.
const SIGNATURE_OPENS: &[u8] = b",\"value\":\"";
/// What stands in for base64url of 64 bytes until they are known.
const NO_SIGNATURE: [u8; 86] = [b'.'; 86];

/// Writes an object whose members the caller names in JCS order; names are plain.
struct Object<'o> {
    out: &'o mut Vec<u8>,
    first: bool,
}

impl<'o> Object<'o> {
    fn open(out: &'o mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, first: true }
    }

    fn name(&mut self, name: &str) -> &mut Vec<u8> {
        if !self.first {
            self.comma();
        }
        self.first = false;
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }

    fn text(&mut self, name: &str, value: &str) {
        canonical::write_string(self.name(name), value);
    }

    fn maybe(&mut self, name: &str, value: Option<&str>) {
        match value {
            Some(value) => self.text(name, value),
            None => self.name(name).extend_from_slice(b"null"),
        }
    }

    fn comma(&mut self) {
        self.out.push(b',');
    }

    fn close(self) {
        self.out.push(b'}');
    }
}
