//! Grants: a mandate and a session under it, asked for by the agent itself (GNAP, RFC 9635).
//!
//! ```text
//!   ask ──▶ what the agent holds covers it ──▶ a narrower mandate, a session
//!    └────▶ else a person is asked: an action like any other, held in the one inbox
//!              └──▶ continue ──▶ still waiting | given: the mandate, in the person's name, and the session | refused
//! ```
//!
//! Nothing of a grant is kept here: what waits is the held action, and mandate and session are named after it, so that whoever
//! continues twice has the same ones.

use std::sync::Arc;

use action::{ActionId, IdempotencyKey, Money, Tenant};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use ledger::{State, Stored};
use mandate::{Account, Claims, Mandate, Refusal};
use serde_json::{Value, json};

use crate::admin::{DelegateAsk, event};
use crate::approvals::{APPROVE, REJECT, Said};
use crate::authority::{PUBLIC_TOKEN, Standing, granted, stored as kept};
use crate::caller::{Caller, Deed, Role};
use crate::gateway::Gateway;
use crate::remember::unavailable;
use crate::request::Ask;
use crate::row::{IntentRow, internal};
use crate::sessions::{Cause, PRINCIPAL, SessionView};
use crate::{Code, Error, clock};

/// The kind of action by which a person is asked to consent.
pub(crate) const ARCHETYPE: &str = "SESSION_GRANT";
/// How it is declared, for catalogues that have it.
pub(crate) const DECLARATION: &str = include_str!("session_grant.toml");

/// What an agent asks to be granted.
#[derive(Clone, Debug)]
pub struct GrantAsk {
    /// Archetypes or groups.
    pub actions: Vec<String>,
    /// Resource patterns; `None` means any.
    pub resources: Option<Vec<String>>,
    /// The most that may be spent in sum.
    pub spend_cap: Option<Money>,
    /// The most actions.
    pub max_actions: Option<u64>,
    /// How long it is to last; `None`: as long as what the agent holds, or an hour.
    pub expires_in_seconds: Option<u32>,
    /// A mandate that the agent holds, for a narrower one; its key's default one, unless it is named.
    pub held: Option<String>,
    /// Id of the request.
    pub request_id: String,
}

/// What came of it.
#[derive(Clone, Debug)]
pub enum GrantView {
    /// It is granted.
    Granted {
        /// The token of the mandate.
        token: String,
        /// What the mandate allows.
        actions: Vec<String>,
        /// Unix seconds.
        expires_at: i64,
        /// The session that was opened under it.
        session: Box<SessionView>,
    },
    /// A person is asked.
    Pending {
        /// The held action.
        action_id: String,
        /// What continues it.
        continuation: String,
    },
}

/// Why it is not granted, in the words of RFC 9635.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantRefusal {
    /// A person said no.
    UserDenied,
    /// It is refused, or nobody consented in time.
    RequestDenied,
    /// There is no such grant, or not by this token.
    InvalidContinuation,
}

type Granting = Result<Result<GrantView, GrantRefusal>, Error>;

impl Gateway {
    /// Grants what the agent's own mandate covers, else asks a person.
    ///
    /// # Errors
    /// `EP_NOT_FOUND` for an archetype or group that there is not, `EP_VALIDATION_FAILED` for a mandate that is none of the
    /// agent's, `EP_STATE_CONFLICT` where people hold what works under it, and what an action meets that never became one.
    pub async fn grant(self: &Arc<Self>, caller: &Caller, ask: GrantAsk) -> Granting {
        caller.must(Deed::Execute)?;
        self.tenant(&caller.tenant)?.must_name_actions(&ask.actions, &[])?;
        if let Some(granted) = self.narrowed(caller, &ask).await? {
            return Ok(Ok(granted));
        }
        if !self.config.grants.consent {
            return Ok(Err(GrantRefusal::RequestDenied));
        }
        let id = clock::new_id(clock::now_ms())?.to_string();
        let key = IdempotencyKey::parse(&id).map_err(|_| internal("an id is no key"))?;
        let body = json!({ "archetype": ARCHETYPE, "constraints": constraints(caller, &ask) });
        let asked = Ask {
            idempotency_key: Some(key),
            request_id: ask.request_id,
            dry_run: false,
            wait: crate::Wait::default(),
            body: body.to_string().into_bytes(),
        };
        let answer = self.execute(caller, asked).await?;
        let id = answer.action_id.ok_or_else(|| internal("a grant has no action"))?;
        self.came_to(&caller.tenant, id).await
    }

    /// What became of a grant that a person was asked about. The token that continues it is all that is needed.
    ///
    /// # Errors
    /// `EP_UNAVAILABLE`, and what a mandate meets that has ended meanwhile.
    pub async fn continue_grant(&self, continuation: &str) -> Granting {
        let Some((tenant, id)) = self.continued(continuation) else {
            return Ok(Err(GrantRefusal::InvalidContinuation));
        };
        self.came_to(&tenant, id).await
    }

    /// A narrower mandate than the one that the agent holds, if that has so much left.
    async fn narrowed(&self, caller: &Caller, ask: &GrantAsk) -> Result<Option<GrantView>, Error> {
        let Some(held) = self.to_narrow(caller, ask.held.as_deref()).await? else { return Ok(None) };
        self.limits.before_parsing(caller)?;
        let narrower = DelegateAsk {
            subject: caller.subject.to_string(),
            even_if_unknown: true,
            scope: Some(ask.actions.clone()),
            resources: ask.resources.clone(),
            spend_cap: ask.spend_cap,
            max_actions: ask.max_actions,
            expires_at: ask.expires_in_seconds.map(|seconds| clock::now_ms() / 1000 + i64::from(seconds)),
            ..DelegateAsk::default()
        };
        let issued = match self.delegate(caller, &held.jti, narrower).await {
            Ok(issued) => issued,
            // What it holds is narrower, or ends sooner, or is somebody else's: then a person is asked.
            Err(error) if error.code == Code::Unavailable => return Err(error),
            Err(_) => return Ok(None),
        };
        let session = match self.begin_session(caller, Some(&issued.token), clock::random()?).await {
            Ok(session) => Box::new(session),
            Err(error) => {
                // Something came between: what nobody was told of does not stay.
                let cause = Cause::of(PRINCIPAL, caller.subject.as_str(), Some(NO_SESSION));
                self.end_mandate(&caller.tenant, &issued.mandate.jti, &cause).await?;
                return Err(error);
            }
        };
        let expires_at = clock::parse_ms(&issued.mandate.expires_at).unwrap_or(0) / 1000;
        Ok(Some(GrantView::Granted {
            token: issued.token,
            actions: issued.mandate.scope,
            expires_at,
            session,
        }))
    }

    /// The mandate that an agent would have narrower, as far as a session can begin under it now. Of what it has brought
    /// nothing is written before it is known to be in force and its own; without that, its key's default one counts.
    async fn to_narrow(&self, caller: &Caller, token: Option<&str>) -> Result<Option<Arc<Mandate>>, Error> {
        let standing = self.standing(caller, token, true).await?;
        if let Err(refusal) = self.is_in_force(caller, &standing).await? {
            return match token {
                Some(_) => {
                    Err(Error::new(Code::ValidationFailed, refusal.to_string()).field("/delegation_token"))
                }
                None => Ok(None),
            };
        }
        let standing = self.standing(caller, token, false).await?;
        let line: Vec<_> = standing.chain().cloned().collect();
        self.may_begin(caller, &line).await?;
        Ok(standing.mandate.filter(|held| held.jti != PUBLIC_TOKEN))
    }

    /// Whether what stands there, if anything does, is for the caller, now, and has not ended anywhere above.
    async fn is_in_force(&self, caller: &Caller, standing: &Standing) -> Result<Result<(), Refusal>, Error> {
        let for_caller = |mandate: &Arc<Mandate>| mandate.is_for(&caller.subject, clock::now_ms() / 1000);
        let refusal = standing.refusal.clone().map_or(Ok(()), Err);
        if let Err(refusal) = refusal.and_then(|()| standing.mandate.as_ref().map_or(Ok(()), for_caller)) {
            return Ok(Err(refusal));
        }
        let line: Vec<_> = standing.chain().cloned().collect();
        let (_, accounts) = self.left(&caller.tenant, &line).await?;
        Ok(accounts.iter().try_for_each(Account::is_open))
    }

    async fn came_to(&self, tenant: &Tenant, id: ActionId) -> Granting {
        let stored = self.ledger.action(tenant, id).await.map_err(unavailable)?;
        let Some(stored) = stored.filter(|stored| *stored.archetype == *ARCHETYPE) else {
            return Ok(Err(GrantRefusal::InvalidContinuation));
        };
        match stored.state {
            State::Executed => self.given(&stored).await.map(Ok),
            State::Refused | State::Failed | State::RolledBack => {
                let said = self.said_of(&stored).await?;
                let denied = said.iter().any(|said| said.decision == REJECT);
                Ok(Err(if denied { GrantRefusal::UserDenied } else { GrantRefusal::RequestDenied }))
            }
            _ => Ok(Ok(GrantView::Pending {
                action_id: id.to_string(),
                continuation: self.continuation(tenant, id)?,
            })),
        }
    }

    /// The mandate that a person consented to, in their name, and the session under it.
    async fn given(&self, stored: &Stored) -> Result<GrantView, Error> {
        let tenant = self.tenant(&stored.tenant)?;
        let claims = self.consented(stored).await?;
        let key =
            self.authority.key(&stored.tenant).ok_or_else(|| internal("a tenant has no mandate key"))?;
        let token = mandate::issue(&claims, key).map_err(|refusal| {
            Error::new(Code::ValidationFailed, format!("this is no mandate: {refusal}"))
        })?;
        let mandate = kept(&stored.tenant, &claims, None)?;
        let told = event(tenant, "mandate_issued", &granted(&mandate, &claims, &claims.iss));
        match self.ledger.issue(mandate, told).await {
            // It was continued before.
            Ok(_) | Err(ledger::Error::Exists(_)) => {}
            Err(other) => return Err(unavailable(other)),
        }
        let caller = Caller {
            tenant: stored.tenant.clone(),
            subject: stored.subject.clone(),
            role: Role::Agent,
            key_id: "grant".to_owned(),
            key_issuer: None,
            default_mandate: None,
        };
        let id = stored.id.as_bytes();
        let session = Box::new(self.open_session_as(&caller, Some(&token), *id).await?);
        Ok(GrantView::Granted { token, actions: claims.mandate_scope, expires_at: claims.exp, session })
    }

    async fn consented(&self, stored: &Stored) -> Result<Claims, Error> {
        let said = self.said_of(stored).await?;
        let consent = said.iter().rev().find(|said| said.decision == APPROVE);
        let consent = consent.ok_or_else(|| internal("nobody consented to a grant"))?;
        let since = clock::parse_ms(&consent.at).map_err(|_| internal("a consent has no time"))? / 1000;
        let row = IntentRow::of(stored)?;
        let asked: Value = serde_json::from_str(row.constraints.get())
            .map_err(|_| internal("stored constraints cannot be read"))?;
        let list = |member: &str| {
            let texts = asked[member].as_array()?.iter().filter_map(Value::as_str);
            Some(texts.map(str::to_owned).collect::<Vec<_>>())
        };
        let cap = asked["spend_cap"].as_str().and_then(|cap| cap.split_once(' '));
        Ok(Claims {
            jti: format!("mnd_{}", hex::encode(stored.id.as_bytes())),
            iss: consent.approver.clone(),
            sub: stored.subject.to_string(),
            aud: self.issuer.clone(),
            iat: since,
            exp: since.saturating_add(asked["expires_in_seconds"].as_i64().unwrap_or(0)),
            mandate_scope: list("actions").unwrap_or_default(),
            resources: list("resources"),
            spend_cap: cap.map(|(amount, currency)| mandate::SpendCap {
                amount: amount.to_owned(),
                currency: currency.to_owned(),
            }),
            max_actions: asked["max_actions"].as_u64(),
            ..Claims::default()
        })
    }

    async fn said_of(&self, stored: &Stored) -> Result<Vec<Said>, Error> {
        let given = self.given_of(stored).await?;
        given.iter().map(|given| Said::from_bytes(&given.record)).collect()
    }

    /// Names the grant, and proves that it was given out here.
    fn continuation(&self, tenant: &Tenant, id: ActionId) -> Result<String, Error> {
        let proof = self.tenant(tenant)?.hmac.sign_parts(&[PURPOSE, id.as_bytes()]);
        Ok(format!("{tenant}.{id}.{}", hex::encode(proof)))
    }

    fn continued(&self, continuation: &str) -> Option<(Tenant, ActionId)> {
        let mut parts = continuation.rsplitn(3, '.');
        let (_, id, tenant) = (parts.next()?, parts.next()?, parts.next()?);
        let (tenant, id) = (Tenant::parse(tenant).ok()?, id.parse().ok()?);
        let expected = self.continuation(&tenant, id).ok()?;
        // To the byte, and in a time that tells nothing of the proof.
        verify_slices_are_equal(expected.as_bytes(), continuation.as_bytes()).ok()?;
        Some((tenant, id))
    }
}

fn constraints(caller: &Caller, ask: &GrantAsk) -> Value {
    let mut asked = json!({
        "subject": caller.subject.as_str(), "actions": &ask.actions, "expires_in_seconds": ask.expires_in_seconds.unwrap_or(AN_HOUR),
    });
    if let Some(resources) = &ask.resources {
        asked["resources"] = json!(resources);
    }
    if let Some(cap) = ask.spend_cap {
        asked["spend_cap"] = format!("{cap} {}", cap.currency().code()).into();
    }
    if let Some(most) = ask.max_actions {
        asked["max_actions"] = most.into();
    }
    asked
}

const AN_HOUR: u32 = 3600;
const NO_SESSION: &str = "no session was opened under it";
const PURPOSE: &[u8] = b"countersign/grant/1";
