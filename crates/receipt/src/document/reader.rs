use super::{Document, Entry};
use crate::approval::Approval;
use crate::canonical::{self, Flaw, Quoted, Scanner};
use crate::draft::{
    Amendment, Checkpoint, Draft, Environment, Event, Kind, Metadata, MoneyFields, Observed, PaymentStatus,
    Promise, Text,
};
use crate::receipt::SPEC;
use crate::{Error, Failure, Place, Stage, Timestamp, chain};

/// Reads a receipt from canonical text, where every member has one place.
pub(super) struct Reader<'a> {
    text: &'a str,
    scanner: Scanner<'a>,
    /// The entry being read.
    entry: Option<usize>,
    /// Names of the objects being read, outermost first.
    path: Vec<&'static str>,
    first: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, scanner: Scanner::new(text), entry: None, path: Vec::new(), first: true }
    }

    pub(super) fn document(&mut self) -> Result<Document<'a>, Failure> {
        self.open()?;
        let agent_id = self.text("agentId")?;
        let amendment_of = self.text_or_null("amendmentOf")?;
        let chain_id = self.text("chainId")?;
        self.scanner.comma().map_err(|_| self.missing("created"))?;
        let created_at = self.scanner.position();
        self.first = true;
        let created = self.timestamp("created")?;
        self.scanner.comma().map_err(|_| self.missing("entries"))?;
        let created_end = self.scanner.position();
        self.first = true;
        self.name("entries")?;
        let entries = self.entries()?;
        self.first = false;
        let event_type = self.text("eventType")?;
        let event = self.event(&event_type, amendment_of)?;
        let idempotency_key = self.text_or_null("idempotencyKey")?;
        let metadata = self.within("metadata", Self::metadata)?;
        let money = self.within("money", Self::money)?;
        let payment_status = self.case("paymentStatus", PaymentStatus::from_name)?;
        let receipt_id = self.text("receiptId")?;
        let regulatory_framework = self.array("regulatoryFramework", |reader, _| {
            let text = reader.scanner.string().map_err(|flaw| reader.flaw(flaw))?;
            Ok(text.content())
        })?;
        let replica_id = self.text("replicaId")?;
        let session_id = self.text_or_null("sessionId")?;
        let (kid, value_at, signature_value, value_end) = self.within("signature", Self::signature)?;
        let transaction_id = self.text("transactionId")?;
        self.within("version", |reader| reader.literal("spec", SPEC))?;
        self.close()?;
        let signed_bytes =
            [&self.text[..created_at], &self.text[created_end..value_at], &self.text[value_end..]];
        let content = Draft {
            receipt_id,
            transaction_id,
            agent_id,
            session_id,
            event,
            payment_status,
            money,
            idempotency_key,
            replica_id,
            chain_id,
            regulatory_framework,
            metadata,
        };
        Ok(Document { content, created, entries, kid, signature_value, text: self.text, signed_bytes })
    }

    fn event(&self, event_type: &str, amendment_of: Option<Text<'a>>) -> Result<Event<'a>, Failure> {
        match (event_type, Amendment::from_name(event_type), amendment_of) {
            ("ORIGINAL", _, None) => Ok(Event::Original),
            ("ORIGINAL", _, Some(_)) => {
                Err(Failure::member("amendmentOf", "an original receipt amends none"))
            }
            (_, Some(reason), Some(of)) => Ok(Event::Amendment { reason, of }),
            (_, Some(_), None) => {
                Err(Failure::member("amendmentOf", "an amendment names the receipt it amends"))
            }
            (_, None, _) => Err(Failure::member("eventType", format!("unknown value `{event_type}`"))),
        }
    }

    fn metadata(&mut self) -> Result<Metadata<'a>, Failure> {
        let approvals = self.array("approvals", |reader, index| {
            let text = reader.scanner.value().map_err(|flaw| reader.flaw(flaw))?;
            let fault = |error: Error| reader.fault(&format!("approvals[{index}]"), &error.to_string());
            Approval::parse(text.as_bytes()).map_err(fault)
        })?;
        let archetype = self.text_or_null("archetype")?;
        let catalog_digest = self.text_or_null("catalogDigest")?;
        let entity_digest = self.text_or_null("entityDigest")?;
        let environment = self.case("environment", Environment::from_name)?;
        let guarantee_level = self.text_or_null("guaranteeLevel")?;
        let intent_id = self.text_or_null("intentId")?;
        let issuer = self.text("issuer")?;
        let kind = self.case("kind", Kind::from_name)?;
        let log = self.within_or_null("log", |reader| {
            let promise = reader.promise()?;
            let origin = reader.text("origin")?;
            let root = reader.text("root")?;
            Ok(Checkpoint { origin, size: reader.integer("size")?, root, promise })
        })?;
        let mandate_id = self.text_or_null("mandateId")?;
        let observed = self.within_or_null("observed", |reader| {
            let code = reader.text_or_null("code")?;
            Ok(Observed { would_be: reader.text("would_be")?, code })
        })?;
        let policy_digest = self.text_or_null("policyDigest")?;
        let tenant = self.text("tenant")?;
        Ok(Metadata {
            issuer,
            tenant,
            environment,
            archetype,
            kind,
            mandate_id,
            intent_id,
            guarantee_level,
            policy_digest,
            catalog_digest,
            entity_digest,
            approvals,
            observed,
            log,
        })
    }

    /// Two members that are both there or both not.
    fn promise(&mut self) -> Result<Option<Promise<'a>>, Failure> {
        if !self.scanner.is_at("\"mergeBy\":") {
            return Ok(None);
        }
        let merge_by = self.timestamp("mergeBy")?;
        Ok(Some(Promise { merge_by, nonce: self.text("nonce")? }))
    }

    fn money(&mut self) -> Result<MoneyFields<'a>, Failure> {
        let charge_amount = self.text_or_null("chargeAmount")?;
        let charge_currency = self.text_or_null("chargeCurrency")?;
        let offer_amount = self.text_or_null("offerAmount")?;
        let offer_currency = self.text_or_null("offerCurrency")?;
        Ok(MoneyFields { offer_currency, offer_amount, charge_currency, charge_amount })
    }

    fn signature(&mut self) -> Result<(Text<'a>, usize, Text<'a>, usize), Failure> {
        self.literal("alg", "ES256")?;
        let kid = self.text("kid")?;
        let value_at = self.scanner.position();
        let value = self.text("value")?;
        Ok((kid, value_at, value, self.scanner.position()))
    }

    pub(super) fn entries(&mut self) -> Result<Vec<Entry<'a>>, Failure> {
        let mut entries = Vec::with_capacity(Stage::ALL.len());
        self.eat("[", "an array was expected")?;
        loop {
            // Stages ascend, so an honest receipt cannot have more.
            if entries.len() == Stage::ALL.len() {
                return Err(Failure::entry(entries.len(), None, "there are more entries than stages"));
            }
            self.entry = Some(entries.len());
            entries.push(self.entry()?);
            self.entry = None;
            if self.scanner.eat("]") {
                return Ok(entries);
            }
            self.eat(",", "a comma was expected between entries")?;
        }
    }

    fn entry(&mut self) -> Result<Entry<'a>, Failure> {
        let start = self.scanner.position();
        self.open()?;
        self.null("checkpointSignature")?;
        let cost = self.decimal_or_null("cost")?;
        let error = self.value("error")?;
        self.scanner.comma().map_err(|_| self.missing("hash"))?;
        let cut_from = self.scanner.position();
        self.first = true;
        let hash = self.plain("hash")?;
        self.scanner.comma().map_err(|_| self.missing("input"))?;
        let cut_to = self.scanner.position();
        self.first = true;
        let input = self.value("input")?;
        let latency_ms = self.integer("latencyMs")?;
        self.name("metadata")?;
        let (metadata, at) =
            self.scanner.value_and_member("at").map_err(|flaw| self.flaw_in("metadata", flaw))?;
        let output = self.value("output")?;
        let previous_hash = self.plain("previousHash")?;
        let stage = self.case("stage", Stage::from_name)?;
        self.close()?;
        let at = at.and_then(|at| Timestamp::parse(at.trim_matches('"')).ok());
        let at = at.ok_or_else(|| Failure::entry(self.entry.unwrap_or(0), Some(stage), NO_TIME))?;
        let end = self.scanner.position();
        Ok(Entry {
            stage,
            at,
            input,
            output,
            error,
            cost,
            latency_ms,
            metadata,
            previous_hash,
            hash,
            text: &self.text[start..end],
            hashed_bytes: [&self.text[start..cut_from], &self.text[cut_to..end]],
        })
    }

    pub(super) fn end(&self) -> Result<(), Failure> {
        if self.scanner.at_end() { Ok(()) } else { Err(Failure::document("something follows the document")) }
    }

    fn open(&mut self) -> Result<(), Failure> {
        self.first = true;
        self.eat("{", "an object was expected")
    }

    fn close(&mut self) -> Result<(), Failure> {
        self.first = false;
        if self.scanner.eat("}") {
            return Ok(());
        }
        self.scanner.comma().map_err(|flaw| self.flaw(flaw))?;
        let name = self.scanner.string().map_err(|flaw| self.flaw(flaw))?;
        Err(self.unknown(name))
    }

    /// Steps over `"name":`, and the comma before it.
    fn name(&mut self, name: &'static str) -> Result<(), Failure> {
        if !self.first {
            self.scanner.comma().map_err(|_| self.missing(name))?;
        }
        self.first = false;
        if self.scanner.eat_name(name) { Ok(()) } else { self.other_name(name) }
    }

    /// Steps over a name that may be the expected one, though something is wrong with it or after it.
    #[cold]
    fn other_name(&mut self, name: &'static str) -> Result<(), Failure> {
        let found = self.scanner.string().map_err(|flaw| self.flaw(flaw))?;
        if found.raw() != name {
            return Err(self.not_this(found, name));
        }
        self.scanner.colon().map_err(|flaw| self.flaw(flaw))
    }

    fn value(&mut self, name: &'static str) -> Result<&'a str, Failure> {
        self.name(name)?;
        self.scanner.value().map_err(|flaw| self.flaw_in(name, flaw))
    }

    /// A string, escapes and quotes removed.
    fn text(&mut self, name: &'static str) -> Result<Text<'a>, Failure> {
        self.name(name)?;
        self.scanner.string().map(Quoted::content).map_err(|flaw| self.flaw_in(name, flaw))
    }

    fn text_or_null(&mut self, name: &'static str) -> Result<Option<Text<'a>>, Failure> {
        self.name(name)?;
        if self.scanner.eat("null") {
            return Ok(None);
        }
        self.scanner.string().map(|text| Some(text.content())).map_err(|flaw| self.flaw_in(name, flaw))
    }

    /// A string in which nothing needs escaping, left as it is.
    fn plain(&mut self, name: &'static str) -> Result<&'a str, Failure> {
        self.name(name)?;
        let text = self.scanner.string().map_err(|flaw| self.flaw_in(name, flaw))?;
        Ok(text.raw())
    }

    fn decimal_or_null(&mut self, name: &'static str) -> Result<Option<&'a str>, Failure> {
        let text = self.value(name)?;
        let decimal = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        match decimal {
            None if text == "null" => Ok(None),
            Some(decimal) if chain::is_decimal(decimal) => Ok(Some(decimal)),
            _ => Err(self.fault(name, "is not a decimal string")),
        }
    }

    fn integer(&mut self, name: &'static str) -> Result<u64, Failure> {
        let text = self.value(name)?;
        text.parse().map_err(|_| self.fault(name, "is not a whole number"))
    }

    fn timestamp(&mut self, name: &'static str) -> Result<Timestamp, Failure> {
        let text = self.plain(name)?;
        Timestamp::parse(text).map_err(|error| self.fault(name, &error.to_string()))
    }

    fn case<T>(&mut self, name: &'static str, from_name: impl Fn(&str) -> Option<T>) -> Result<T, Failure> {
        let text = self.text(name)?;
        from_name(&text).ok_or_else(|| self.fault(name, &format!("unknown value `{text}`")))
    }

    fn literal(&mut self, name: &'static str, expected: &str) -> Result<(), Failure> {
        let text = self.text(name)?;
        if text == expected {
            Ok(())
        } else {
            Err(self.fault(name, &format!("is `{text}`, not `{expected}`")))
        }
    }

    fn null(&mut self, name: &'static str) -> Result<(), Failure> {
        if self.value(name)? == "null" { Ok(()) } else { Err(self.fault(name, "is not null")) }
    }

    fn array<T>(
        &mut self,
        name: &'static str,
        item: impl Fn(&mut Self, usize) -> Result<T, Failure>,
    ) -> Result<Vec<T>, Failure> {
        self.name(name)?;
        self.eat("[", "an array was expected")?;
        let mut items = Vec::new();
        if self.scanner.eat("]") {
            return Ok(items);
        }
        loop {
            items.push(item(self, items.len())?);
            if self.scanner.eat("]") {
                return Ok(items);
            }
            self.eat(",", "a comma was expected")?;
        }
    }

    fn within<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&mut Self) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.name(name)?;
        self.path.push(name);
        self.open()?;
        let value = read(self)?;
        self.close()?;
        self.path.pop();
        Ok(value)
    }

    fn within_or_null<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&mut Self) -> Result<T, Failure>,
    ) -> Result<Option<T>, Failure> {
        self.name(name)?;
        if self.scanner.eat("null") {
            return Ok(None);
        }
        self.path.push(name);
        self.open()?;
        let value = read(self)?;
        self.close()?;
        self.path.pop();
        Ok(Some(value))
    }

    fn eat(&mut self, literal: &str, otherwise: &'static str) -> Result<(), Failure> {
        if self.scanner.eat(literal) { Ok(()) } else { Err(self.flaw(Flaw(otherwise))) }
    }

    /// Members ascend, so a name beyond the expected one means that it is missing, and one before it is unknown.
    fn not_this(&self, found: Quoted<'_>, expected: &'static str) -> Failure {
        let name = found.content();
        if canonical::compare(&name, expected).is_gt() { self.missing(expected) } else { self.unknown(found) }
    }

    fn missing(&self, name: &str) -> Failure {
        self.fault(name, "is missing")
    }

    fn unknown(&self, found: Quoted<'_>) -> Failure {
        self.fault(&found.content(), "is not a member of the format")
    }

    fn flaw_in(&self, name: &str, Flaw(why): Flaw) -> Failure {
        self.fault(name, why)
    }

    fn flaw(&self, Flaw(why): Flaw) -> Failure {
        match self.entry {
            Some(index) => Failure::entry(index, None, why),
            None if self.path.is_empty() => Failure::document(why),
            None => Failure::member(&self.path.join("."), why),
        }
    }

    fn fault(&self, name: &str, why: &str) -> Failure {
        match self.entry {
            Some(index) => Failure::entry(index, None, format!("member `{name}` {why}")),
            None => {
                let path: Vec<&str> = self.path.iter().copied().chain([name]).collect();
                Failure { place: Place::Member(path.join(".")), why: why.to_owned() }
            }
        }
    }
}

const NO_TIME: &str = "member `metadata` has no valid `at`";
